// Lets the page of `sod watch --page` follow the runs. Stands after page.js and `let version = "...";` in one script.

const FOLLOW_MS = 2000; // time between two questions to the server

async function follow() {
  const state = element("p", "following");
  state.setAttribute("role", "status");
  document.querySelector("header.top").append(state);
  if (!location.hash.includes("=")) {
    filters.elements.order.value = "update down";
    standard = choices();
    arrange();
  }
  for (;;) {
    try {
      const news = await (await fetch("changes")).json();
      state.textContent = news.words;
      if (news.version !== version) await renew();
      version = news.version;
    } catch {
      state.textContent = "sod watch has ended, or cannot be reached.";
    }
    await new Promise((done) => setTimeout(done, FOLLOW_MS));
  }
}

// Replace summary, figures and trajectories by the newest ones. What is open, filtered and scrolled stays.
async function renew() {
  const fresh = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
  searching += 1; // a search in the old trajectories stops
  const kept = opened.map((i) => identity(entries[i]));
  const tops = [list.scrollTop, ...[...readers.querySelectorAll(".turns")].map((turns) => turns.scrollTop)];
  const data = "script[type='application/json']";
  for (const id of ["summary", "figures"]) $(id).replaceWith(fresh.getElementById(id));
  for (const old of document.querySelectorAll(data)) old.remove();
  document.body.append(...fresh.querySelectorAll(data));
  chunks.clear();
  opened = [];
  await load();
  found = { text: "", entries: null };
  await search(choices().text.toLowerCase());
  arrange();
  await open(kept.map((name) => entries.findIndex((entry) => identity(entry) === name)).filter((i) => i >= 0));
  [list, ...readers.querySelectorAll(".turns")].forEach((box, n) => (box.scrollTop = tops[n] ?? 0));
  draw();
}

started.then(follow);

// The trajectory browser. The page holds trajectories in compressed chunks, which are decompressed on demand. Every text of a
// run is shown as text, never as markup.
"use strict";

const ROW = 52; // height of an entry in pixels; also in page.css
const SPARE = 8; // entries drawn above and below the visible ones
const CHUNKS_KEPT = 128; // decompressed chunks kept in memory
const STRONG = 1.5; // scale of a token's tint, in nats

const $ = (id) => document.getElementById(id);
const browser = $("browser"), filters = $("filters"), list = $("list"), rows = $("rows"), readers = $("readers"), tip = $("tip");

let unit = 0; // nats per whole number
let runs = []; // names of the runs
let entries = []; // one entry per trajectory, for the list
let shown = []; // numbers of the entries that pass the filters, in order
let opened = []; // numbers of the open entries: none, one, or two to compare
let found = { text: "", entries: null }; // numbers of the entries that contain the text; null for all

// Data

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const chunks = new Map(); // number -> promise of its trajectories, least recently used first

function chunk(number) {
  const content = chunks.get(number) ?? unpack(`chunk-${number}`);
  chunks.delete(number);
  chunks.set(number, content);
  if (chunks.size > CHUNKS_KEPT) chunks.delete(chunks.keys().next().value);
  return content;
}

const trajectory = async (entry) => (await chunk(entry.chunk))[entry.place];

// Words

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

const fixed = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + fixed(value, digits);
const many = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const SIGNS = { right: "✓", wrong: "✗", ungraded: "?" };
const verdict = (entry) => element("span", `verdict ${entry.verdict}`, `${SIGNS[entry.verdict]} ${entry.verdict}`);

// The list

const numbersOf = (chosen) => [...entries.keys()].filter((i) => chosen(entries[i], i));
const lowest = (entry) => (entry.weights.some((w) => w !== null) ? Math.min(...entry.weights.filter((w) => w !== null)) : null);

// Orders of the list: the value to sort by, and how an entry shows it.
const SORTS = {
  update: { words: "update", value: (entry) => entry.update },
  reward: { words: "reward", value: (entry) => entry.reward },
  errors: { words: "tool errors", value: (entry) => entry.errors },
  weight: { words: "lowest weight", value: (entry) => entry.lowest, show: (value) => `w ${fixed(value, 3)}` },
  tokens: { words: "length", value: (entry) => entry.tokens, show: (value) => many(value, "token") },
  signal: { words: "mean |signal|", value: (entry) => entry.signal, show: (value) => `${fixed(value, 3)} nats` },
};
const ORDERS = Object.entries(SORTS).flatMap(([name, { words }]) => [
  [`${name} up`, `${words} ↑`],
  [`${name} down`, `${words} ↓`],
]);

function choices() {
  return Object.fromEntries([...new FormData(filters)].map(([name, value]) => [name, value.trim()]));
}

function passes(entry, choice) {
  return (
    (!choice.run || entry.run === Number(choice.run)) &&
    (!choice.verdict || entry.verdict === choice.verdict) &&
    (!choice.errors || entry.errors > 0 === (choice.errors === "some")) &&
    (!choice.pattern || (entry.pattern ?? "none") === choice.pattern) &&
    (!choice.stop || entry.stop === choice.stop) &&
    (!choice.from || entry.update >= Number(choice.from)) &&
    (!choice.to || entry.update <= Number(choice.to)) &&
    (!choice.least || (entry.reward !== null && entry.reward >= Number(choice.least))) &&
    (!choice.most || (entry.reward !== null && entry.reward <= Number(choice.most)))
  );
}

function arrange() {
  const choice = choices();
  const [name, direction] = choice.order.split(" ");
  const { value } = SORTS[name], way = direction === "down" ? -1 : 1;
  shown = numbersOf((entry, i) => passes(entry, choice) && (!found.entries || found.entries.has(i)));
  shown.sort((i, j) => {
    const a = value(entries[i]), b = value(entries[j]);
    if (a === null || b === null) return (a === null) - (b === null) || i - j; // unknown values come last
    return way * (a - b) || i - j;
  });
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")}`;
  list.ariaBusy = "false";
  rows.style.height = `${shown.length * ROW}px`;
  list.scrollTop = 0;
  draw();
}

function draw() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  rows.replaceChildren(...Array.from({ length: last - first }, (_, k) => row(first + k)));
  const at = shown.indexOf(opened[0]);
  if (at >= first && at < last) list.setAttribute("aria-activedescendant", `entry-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function row(position) {
  const i = shown[position], entry = entries[i];
  const line = element("div", "entry");
  line.id = `entry-${position}`;
  line.dataset.entry = i;
  line.style.top = `${position * ROW}px`;
  line.setAttribute("role", "option");
  line.setAttribute("aria-selected", String(i === opened[0]));
  line.setAttribute("aria-setsize", shown.length);
  line.setAttribute("aria-posinset", position + 1);
  const name = element("span", "", verdict(entry), ` ${entry.problem} #${entry.sample}`);
  const about = [`update ${entry.update}`, many(entry.errors, "error")];
  if (runs.length > 1) about.unshift(runs[entry.run]);
  if (entry.pattern) about.push(entry.pattern);
  const { value, show } = SORTS[choices().order.split(" ")[0]];
  const figure = show ? show(value(entry)) : signed(entry.reward);
  line.append(name, bars(entry), element("span", "about", about.join(" · ")), element("span", "figure", figure));
  return line;
}

function bars(entry) {
  const strip = element("span", "weights");
  strip.title = entry.weights.length ? `step weights ${entry.weights.map((w) => fixed(w)).join(", ")}` : "";
  for (const w of entry.weights.slice(0, 24)) {
    const bar = element("i");
    bar.style.setProperty("--w", Math.min(w ?? 0, 1.2));
    strip.append(bar);
  }
  return strip;
}

function reveal(position) {
  const top = position * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  draw();
}

function move(by) {
  const at = shown.indexOf(opened[0]);
  const next = at < 0 ? 0 : Math.min(Math.max(at + by, 0), shown.length - 1);
  if (shown.length && shown[next] !== opened[0]) open([shown[next]]);
}

// Search

let searching = 0; // number of the latest search; older ones stop

async function search(words) {
  const mine = ++searching;
  if (words === found.text) return true;
  const hits = new Set();
  if (words) {
    const members = new Map(); // number of a chunk -> numbers of its entries
    entries.forEach((entry, i) => members.set(entry.chunk, [...(members.get(entry.chunk) ?? []), i]));
    let done = 0;
    for (const [number, within] of members) {
      const content = await chunk(number);
      if (mine !== searching) return false;
      for (const i of within) if (holds(content[entries[i].place], entries[i], words)) hits.add(i);
      done += 1;
      if (done % 16 === 0) $("count").textContent = `searching: ${Math.round((100 * done) / members.size)} %`;
    }
  }
  found = { text: words, entries: words ? hits : null };
  return true;
}

const holds = (content, entry, words) =>
  entry.problem.toLowerCase().includes(words) || content.pieces.some((piece) => piece.text.toLowerCase().includes(words));

async function refilter() {
  if (await search(choices().text.toLowerCase())) {
    arrange();
    keepAddress();
  }
}

// Reading

let turning = 0; // number of the latest `open`; older ones stop

async function open(numbers) {
  const mine = ++turning;
  opened = numbers;
  const position = shown.indexOf(opened[0]);
  if (position >= 0) reveal(position);
  else draw();
  const contents = await Promise.all(opened.map((i) => trajectory(entries[i])));
  if (mine !== turning) return;
  hideTip();
  const focused = readers.contains(document.activeElement);
  const view = opened.length ? opened.map((i, side) => reader(i, contents[side], side)) : [hint];
  readers.replaceChildren(...view);
  browser.classList.toggle("reading", opened.length > 0);
  browser.classList.toggle("comparing", opened.length > 1);
  const covered = opened.length && getComputedStyle(readers).position === "fixed";
  if (covered || (focused && opened.length)) readers.querySelector(".close").focus();
  else if (focused) list.focus();
  keepAddress();
}

function close() {
  open(opened.length > 1 ? [opened[0]] : []);
}

function reader(i, content, side) {
  const entry = entries[i];
  const made = element("article", "reader");
  made.setAttribute("aria-label", `Trajectory ${entry.problem} #${entry.sample} of ${runs[entry.run]}`);
  const name = element("span", "run", runs[entry.run]);
  name.style.setProperty("--run", `var(--series-${(entry.run % 8) + 1})`);
  const facts = [`update ${entry.update}`, `reward ${signed(entry.reward)}`, many(entry.steps, "step"), many(entry.errors, "tool error")];
  if (entry.pattern) facts.push(entry.pattern);
  if (content.teacher) facts.push(`teacher ${content.teacher}`);
  if (entry.signal !== null) facts.push(`mean |signal| ${fixed(entry.signal, 3)} nats`);
  const quit = button("Close", () => (side ? close() : open(opened.slice(1))));
  quit.classList.add("close");
  const title = element("div", "title", element("h3", "", `${entry.problem} #${entry.sample}`), verdict(entry), quit);
  const head = element("header", "", title, element("p", "facts", name, ` · ${facts.join(" · ")}`));
  if (side === 0) head.append(element("div", "tools", ...tools(i)));
  made.append(head, turns(entry, content));
  return made;
}

function tools(i) {
  return [button("Previous", () => move(-1)), button("Next", () => move(1)), comparison(i)];
}

function button(words, action) {
  const made = element("button", "", words);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

// Attempts at the same problem: other runs first, then by nearest update and sample.
function comparison(i) {
  const entry = entries[i];
  const select = element("select");
  select.setAttribute("aria-label", "Compare with");
  const others = numbersOf((other, j) => j !== i && other.problem === entry.problem);
  const far = (j) => [entries[j].run === entry.run, Math.abs(entries[j].update - entry.update), Math.abs(entries[j].sample - entry.sample)];
  others.sort((j, k) => far(j).map((x, n) => x - far(k)[n]).find((x) => x !== 0) ?? j - k);
  select.append(new Option(others.length ? "Compare with …" : "No other attempt at this problem", ""));
  for (const j of others.slice(0, 200)) {
    const other = entries[j];
    const words = `${runs[other.run]} · update ${other.update} · #${other.sample} · ${SIGNS[other.verdict]} ${other.verdict}`;
    select.append(new Option(words, j, false, j === opened[1]));
  }
  select.disabled = !others.length;
  select.addEventListener("change", () => open(select.value ? [i, Number(select.value)] : [i]));
  return select;
}

function turns(entry, content) {
  const made = element("div", "turns");
  made.tabIndex = 0;
  made.setAttribute("role", "region");
  made.setAttribute("aria-label", "Conversation");
  const scored = content.pieces.filter((piece) => piece.author === "student").length === content.steps.length;
  let k = 0;
  for (const piece of content.pieces) {
    if (piece.author === "student") made.append(studentTurn(piece, ++k, scored ? content.steps[k - 1] : null));
    else made.append(otherTurn(piece));
  }
  made.append(ending(entry, content));
  return made;
}

function studentTurn(piece, k, step) {
  const made = element("section", "turn student");
  const head = element("header", "", element("b", "", `step ${k}`));
  if (step) {
    const [d, w, entropy, used] = step;
    if (w !== null) {
      made.style.setProperty("--w", Math.min(w, 1.2));
      const meter = element("span", "meter", element("i"));
      meter.setAttribute("aria-hidden", "true");
      head.append(meter, element("span", "", element("b", "", `w ${fixed(w, 3)}`)));
    }
    if (used !== null && (w === null || Math.abs(used - w) > 1e-3)) head.append(element("span", "", `used ${fixed(used, 3)}`));
    head.append(element("span", "", `d ${fixed(d, 3)}`), element("span", "", `teacher entropy ${fixed(entropy, 3)} nats`));
  }
  made.append(head, tokens(piece));
  return made;
}

// Return a tool's results, without the chat template's frame if it is the usual one.
function answers(text) {
  const framed = [...text.matchAll(/<tool_response>\n?([^]*?)\n?<\/tool_response>/g)].map((match) => match[1]);
  return framed.length ? framed : [text.trim()];
}

function otherTurn(piece) {
  const tool = piece.author === "tool";
  const made = element("section", `turn ${tool ? "tool" : "prompt"}`);
  const head = element("header", "", element("b", "", piece.author));
  for (const outcome of piece.outcomes ?? []) head.append(element("span", outcome === "ok" ? "" : "failed", outcome));
  made.append(head, ...(tool ? answers(piece.text) : [piece.text.trim()]).map((text) => element("pre", "", text)));
  return made;
}

function ending(entry, content) {
  const answer = element("dd", "", `${content.answer ?? "none"}  `, verdict(entry));
  if (content.reason) answer.append(` (${content.reason})`);
  const facts = [["ended", entry.stop], ["gold", content.gold ?? "not kept"], ["answer", answer]];
  if (content.seconds !== null) facts.push(["took", `${fixed(content.seconds, 2)} s`]);
  const made = element("dl");
  for (const [name, value] of facts) made.append(element("dt", "", name), value instanceof Node ? value : element("dd", "", value));
  return element("section", "end", made);
}

// Tokens

function texts(piece) {
  if (piece.texts) return piece.texts;
  if (!piece.cuts) return null;
  let at = 0;
  return piece.cuts.map((length) => piece.text.slice(at, (at += length)));
}

function tokens(piece) {
  const parts = texts(piece);
  const made = element("pre");
  if (!parts || !piece.signal) {
    made.textContent = piece.text;
    return made;
  }
  made.tabIndex = 0;
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", "Tokens of this step; use the arrow keys to move between them");
  made.append(...parts.map((text, n) => token(piece, text, n)));
  made.addEventListener("pointerover", (event) => event.target.matches(".token") && point(event.target));
  made.addEventListener("pointerleave", hideTip);
  made.addEventListener("click", (event) => event.target.matches(".token") && point(event.target));
  made.addEventListener("keydown", (event) => walk(event, made));
  made.addEventListener("blur", hideTip);
  return made;
}

const tint = (nats) => 0.8 * (1 - Math.exp(-Math.abs(nats) / STRONG));
const nats = (piece, key, n) => (piece[key]?.[n] == null ? null : piece[key][n] * unit);

function token(piece, text, n) {
  const made = element("span", "token", text);
  const signal = nats(piece, "signal", n);
  if (signal < 0) made.classList.add("less");
  if (signal !== null) made.style.setProperty("--a", tint(signal).toFixed(3));
  if (text.includes("\n") && !text.trim()) made.classList.add("blank");
  made.words = () => numbers(piece, text, n, signal);
  return made;
}

function numbers(piece, text, n, signal) {
  const lines = [`${JSON.stringify(text)}   token ${n + 1} of ${piece.signal.length}`];
  lines.push(signal === null ? "no signal" : `signal ${signed(signal, 4)} nats`);
  const student = nats(piece, "logprobs", n), entropy = nats(piece, "teacher_entropy", n);
  if (student !== null) lines.push(`sampled at log π ${fixed(student, 4)} (${(100 * Math.exp(student)).toPrecision(3)} %)`);
  if (entropy !== null) lines.push(`teacher entropy ${fixed(entropy, 4)} nats`);
  return lines.join("\n");
}

function point(target) {
  hideTip();
  target.classList.add("at");
  tip.textContent = target.words();
  tip.hidden = false;
  const box = target.getClientRects()[0] ?? target.getBoundingClientRect();
  const left = Math.min(box.left, innerWidth - tip.offsetWidth - 8);
  const below = box.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
}

function hideTip() {
  tip.hidden = true;
  document.querySelector(".token.at")?.classList.remove("at");
}

function walk(event, container) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const all = [...container.children];
  const next = all[Math.min(Math.max(all.findIndex((part) => part.matches(".at")) + by, 0), all.length - 1)];
  next.scrollIntoView({ block: "nearest" });
  point(next);
}

// The page's address stores the open trajectories and the filters

const identity = (entry) => [runs[entry.run], entry.update, entry.problem, entry.sample].join("/");

function keepAddress() {
  const state = new URLSearchParams(Object.entries(choices()).filter(([name, value]) => value !== standard[name]));
  opened.forEach((i, side) => state.set(side ? "with" : "read", identity(entries[i])));
  const address = state.size ? `#${state}` : location.hash.includes("=") ? "#trajectories" : location.hash;
  if (address !== location.hash) history.replaceState(null, "", address || location.pathname);
}

async function followAddress() {
  if (!location.hash.includes("=")) return;
  const state = new URLSearchParams(location.hash.slice(1));
  for (const field of filters.elements) if (field.name) field.value = state.get(field.name) ?? standard[field.name];
  await search(choices().text.toLowerCase());
  arrange();
  const wanted = ["read", "with"].map((name) => entries.findIndex((entry) => identity(entry) === state.get(name)));
  await open(wanted.filter((i) => i >= 0));
  $("trajectories").scrollIntoView();
}

// Keys and clicks

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) return;
  const inList = document.activeElement === list;
  const by = { j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity } : {}) }[event.key];
  if (by) {
    event.preventDefault();
    move(by);
  } else if (event.key === "Escape" && opened.length) {
    close();
  }
}

function fill(select, values) {
  const chosen = select.value;
  select.replaceChildren(...values.map(([value, words]) => new Option(words, value)));
  if (values.some(([value]) => String(value) === chosen)) select.value = chosen;
}

let standard = {}; // initial values of the filters
const hint = readers.firstElementChild;

async function load() {
  const index = await unpack("index");
  ({ unit, runs } = index);
  entries = index.entries.map((values) => Object.fromEntries(index.fields.map((name, n) => [name, values[n]])));
  for (const entry of entries) entry.lowest = lowest(entry);
  const kinds = (name) => [...new Set(entries.map((entry) => entry[name] ?? "none"))].sort().map((kind) => [kind, kind]);
  fill(filters.elements.run, [["", "any"], ...runs.map((name, n) => [n, name])]);
  fill(filters.elements.stop, [["", "any"], ...kinds("stop")]);
  fill(filters.elements.pattern, [["", "any"], ...kinds("pattern")]);
  filters.elements.run.parentElement.hidden = runs.length < 2;
}

async function start() {
  await load();
  fill(filters.elements.order, ORDERS);
  for (const signal of [-4, -2, -1, -0.3, 0, 0.3, 1, 2, 4]) {
    const mark = element("span", signal < 0 ? "token less" : "token", signed(signal, Number.isInteger(signal) ? 0 : 1));
    mark.style.setProperty("--a", tint(signal));
    browser.querySelector(".scale").append(mark);
  }
  browser.hidden = false;
  standard = choices();

  let delay = 0;
  const changed = (wait) => {
    list.ariaBusy = "true";
    clearTimeout(delay);
    delay = setTimeout(refilter, wait);
  };
  filters.addEventListener("input", () => changed(150));
  filters.addEventListener("reset", () => changed(0));
  filters.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", () => requestAnimationFrame(draw));
  list.addEventListener("click", (event) => {
    const line = event.target.closest(".entry");
    if (line) open([Number(line.dataset.entry)]);
  });
  const follow = () => tip.hidden || point(document.querySelector(".token.at"));
  readers.addEventListener("scroll", follow, { capture: true });
  addEventListener("resize", draw);
  addEventListener("hashchange", followAddress);
  document.addEventListener("keydown", onKey);
  arrange();
  await followAddress();
  document.documentElement.dataset.ready = "yes";
}

const started = start();

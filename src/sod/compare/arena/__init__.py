"""`sod compare --preset arena`: which of the published rules can be told apart, in small worlds.

    plan.json                          the plan: worlds, cold starts, rounds, systems, seeds
    WORLD/lab/                         problems, a teacher and cold-started students (`sod.lab.arena`)
    WORLD/round-N/START/               a round of screening: a comparison on tuning problems (`sod.compare.cells`)
    WORLD/final/START/                 the comparison of the finalists on evaluation problems
    WORLD/results.json table.md results.png   what the finals show (`sod.compare.arena.results`)

Nothing is kept beside these directories. Every call computes from the finished cells what is left. The modules, from high to low:

    command      options, plan.json, the worlds one after the other
    running      a world is run: cells, shards, the time limit
    world        a world and its stages, as comparisons
    results      what the finals show
    plan         candidates, rounds and cells, as data
"""

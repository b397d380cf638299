"""`sod run`: the stages of an experiment from one recipe, each skipped when it is done.

stages.py    read the recipe: stages, references between them, options
running.py   run the missing stages in processes of their own
planning.py  what `--dry-run` prints

    OUT/NAME           what stage NAME writes
    OUT/NAME.toml      its options, as a recipe of its command
    OUT/done.json      finished stages, with their options
    OUT/report.html    one page about all runs
"""

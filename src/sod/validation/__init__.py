"""Validate while training: choose the best checkpoint, and end a run that no longer improves.

course.py       the validations of a run so far: the best one, gains outside the noise, what remains to be done
solving.py      `sod train`: solve held-out problems with the run's own engine, tools and judges
imitating.py    `sod sft`: the loss on held-out demonstrations
sets.py         open and check the held-out problems
"""

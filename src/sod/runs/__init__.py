"""The directory of a run: options, metrics, samples, checkpoints and alarms, written atomically.

Files of the directory:

    directory     which files a run has; metrics.jsonl, trajectories, checkpoints
    checkpoints   what a checkpoint contains, and how it is written and verified
    validations   validation.jsonl, and the link to the best checkpoint
    results       results.json of an evaluation
    ends          end.json: how the run ended
    records       a trajectory as a line of a file, and back
    samples       the file of an evaluation's trajectories
    resuming      whether a run is resumed with the options, data and files that it was started with
    contents      digests of the files that a run reads
    locks, files  one process for each directory; atomic writing

What stands in the rows of metrics.jsonl is computed without any file:

    metrics       the numbers of an update or an evaluation
    peaks         its peak memory
    alarms        what the numbers of a run warn of
    patterns      the paper's three patterns of step weights
"""

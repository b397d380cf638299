"""Experiment trackers: send a run's metrics to Trackio, Weights & Biases, TensorBoard or MLflow while it runs.

base.py         what a tracker does, and what each needs     sending.py     the queue and the thread of each tracker
trackio.py, wandb.py, tensorboard.py, mlflow.py              one tracker each; its library is imported when a run begins
"""

"""What a command does with processes: signals that end it, coroutines, and the processes of a distributed run."""

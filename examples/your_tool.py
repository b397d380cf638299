"""A tool of your own beside the code interpreter: no change to the package.

sod eval  --model MODEL --data aime2025 --out runs/with-tool --tool.own examples/your_tool.py:factorise
sod train ... --tool.own examples/your_tool.py:factorise

The name, the type hints and the docstring are what the student is told of it, in the words of its chat template; an argument
with a default may be left out. What the function raises is text for the student: `ValueError: ...`. It runs in this process, not
in the sandbox, and at the same time as other calls: keep nothing between them. tool.seconds and tool.max_chars hold for it.

A tool that asks a server is an `async def`; where the server itself is down, raise sod.errors.InfrastructureError: the attempt is
then tried again, and never trained on.
"""


def factorise(number: int, largest: int = 10_000_000) -> str:
    """Finds the prime factors of a whole number.

    Args:
        number: The number, 2 or more.
        largest: No factor above this is looked for.
    """
    if number < 2:
        raise ValueError(f"{number} has no prime factors")
    factors, divisor = [], 2
    while divisor * divisor <= number and divisor <= largest:
        if number % divisor:
            divisor += 1
        else:
            number //= divisor
            factors.append(str(divisor))
    left = [str(number)] if number > 1 else []
    if number > 1 and divisor * divisor <= number:
        left = [f"{number} (not factorised)"]
    return " * ".join(factors + left)

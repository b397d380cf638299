"""Four small worlds for tiny models: a household, a shop, a maze of facts and a database.

In a sum, a failed call has no effect. In a world, a wrong action can break an object, spend money or change a table, and
every action spends a turn. Errors therefore cascade. docs/worlds.md shows an episode of each world.
"""

from sod.environments.worlds.base import LEVELS, Move, SmallWorld
from sod.environments.worlds.database import Database
from sod.environments.worlds.household import Household
from sod.environments.worlds.maze import Maze
from sod.environments.worlds.shop import Shop

__all__ = ["LEVELS", "WORLDS", "Database", "Household", "Maze", "Move", "Shop", "SmallWorld"]

WORLDS: dict[str, type[SmallWorld]] = {world.NAME: world for world in (Household, Shop, Maze, Database)}

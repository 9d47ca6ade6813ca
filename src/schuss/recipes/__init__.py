"""The lectures' tasks, each a short program with a target.

Run one with `schuss train NAME [key=value ...]`.
"""

from schuss.recipes.recipe import Recipe, Target, all_recipes, find_recipe, recipe

__all__ = ["Recipe", "Target", "all_recipes", "find_recipe", "recipe"]

"""How the environments of a `ContextFamily` are made, and what a task changes in one."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled
from gymnasium.wrappers import TimeLimit

from mtrl.envs.contexts.arithmetic import Expression
from mtrl.envs.contexts.model_fields import Model, ModelField
from mtrl.envs.contexts.targets import (
    Attribute,
    Keyword,
    close_matches,
    number_at,
    set_attribute,
)
from mtrl.envs.failures import missing_package
from mtrl.errors import MtrlError, UsageError

__all__ = ["Instance", "Recipe", "Target"]

Target = Attribute | Keyword | ModelField
Env = gym.Env[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make an environment.

    Attributes:
        family: name of the family.
        env: an id for `gymnasium.make`, or a callable that returns an environment.
        keywords: of the constructor, the same for all tasks.
        horizon: steps after which episodes are truncated; 0 for those of the id's registration.
        targets: what each parameter is.
        whole: the parameters that take whole numbers only.
        derived: formulas of further attributes, by path.
    """

    family: str
    env: str | Callable[..., Env]
    keywords: Mapping[str, Any]
    horizon: int
    targets: Mapping[str, Target]
    whole: frozenset[str]
    derived: Mapping[str, Expression]

    def keywords_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's keywords for a task."""
        values = dict(self.keywords)
        for name, target in self.targets.items():
            if isinstance(target, Keyword):
                whole = target.options is not None or name in self.whole
                number = int(params[name]) if whole else params[name]
                values[target.keyword] = target.options[number] if target.options else number
        return values

    def make(self, keywords: Mapping[str, Any], render_mode: str | None = None) -> Env:
        """Return an environment as its maker and its time limit leave it.

        Raises:
            UsageError: there is no such environment or keyword.
            MissingExtraError: a package that it needs is not installed.
            MtrlError: it cannot be made.
        """
        try:
            return self._make(dict(keywords), render_mode)
        except (DependencyNotInstalled, ModuleNotFoundError) as error:
            raise missing_package(self.family, error) from error
        except gym.error.Error as error:
            raise UsageError(f"task family {self.family!r}: {error}") from error
        except Exception as error:  # whatever an environment's constructor raises
            if isinstance(error, TypeError) and (unknown := self._unknown_keyword(keywords)):
                raise UsageError(f"task family {self.family!r}: {unknown}") from error
            raise MtrlError(
                f"task family {self.family!r}: {self.env} cannot be made with "
                f"{dict(keywords)}: {error!r}"
            ) from error

    def _make(self, keywords: dict[str, Any], render_mode: str | None) -> Env:
        limit = self.horizon or None
        if render_mode is not None:  # not every constructor has the keyword
            keywords["render_mode"] = render_mode
        if isinstance(self.env, str):
            return gym.make(
                self.env,
                max_episode_steps=limit,
                # Ours names the task; Gymnasium's would check the first step of every environment.
                disable_env_checker=True,
                **keywords,
            )
        made = self.env(**keywords)
        return made if limit is None else TimeLimit(made, limit)

    def _unknown_keyword(self, keywords: Mapping[str, Any]) -> str | None:
        """Say which keyword the constructor lacks, as far as its signature tells."""
        creator: Any = self.env
        if isinstance(creator, str):
            entry_point = gym.spec(creator.rpartition(":")[2]).entry_point
            creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        known = inspect.signature(creator).parameters
        for keyword in keywords:
            if keyword not in known:
                return f"{self.env} takes no keyword {keyword!r}; {close_matches(keyword, known)}"
        return None


class Instance:
    """A made environment, in which tasks with the same `keywords` are set one after the other.

    Raises:
        UsageError: it lacks a field of the model that the recipe names.
    """

    def __init__(
        self, recipe: Recipe, keywords: Mapping[str, Any], render_mode: str | None = None
    ) -> None:
        self.keywords = keywords
        self.env = recipe.make(keywords, render_mode)
        self._recipe = recipe
        fields = {n: t for n, t in recipe.targets.items() if isinstance(t, ModelField)}
        self._model = Model(self.env.unwrapped, fields) if fields else None

    def set(self, params: Mapping[str, Any]) -> None:
        """Make the environment that of the task with these parameters; a reset must follow.

        Raises:
            UsageError: there is no such attribute, or it cannot be set.
        """
        env = self.env.unwrapped
        for name, target in self._recipe.targets.items():
            if isinstance(target, Attribute):
                set_attribute(env, target, params[name])
        if self._model is not None:
            self._model.set(dict(params))
        for path, formula in self._recipe.derived.items():
            set_attribute(env, Attribute(path), self._derive(formula, params))

    def _derive(self, formula: Expression, params: Mapping[str, Any]) -> float:
        env = self.env.unwrapped
        try:
            return formula.value(lambda n: params[n] if n in params else number_at(env, n))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise UsageError(f"{formula.text!r} cannot be computed: {error}") from error

"""``pagescan model``: how page tables, faults and write protection work, played on the model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import InvalidArgument
from .command import ExitCode
from .output import note, use_colour, width_of, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .model_stage import Scene
    from .model_stories import Story

SCHEMA_VERSION = 1
#: Wider than this nothing gets, so that it fits everywhere and reads well.
_WIDTH = 80


class Model:
    """Show page tables at work, step by step, on the model.

    Plays a story step by step: what is done, the page table afterwards, what PAGEMAP_SCAN answers, and why. It runs on
    any system: the memory is that of the model, Linux's memory management in Python. What is drawn is the model's own
    state.

    Examples:
      pagescan model
      pagescan model --list
      pagescan model --story huge --step write
      pagescan model --story fork --pause
      pagescan model --story memory --behaviour 6.12
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--list", action="store_true", help="the stories and their steps")
        parser.add_argument("--story", default="tracking", metavar="NAME", help="the story to play (tracking)")
        parser.add_argument("--step", metavar="NAME", help="show this step of it only; those before are done unseen")
        parser.add_argument(
            "--behaviour",
            metavar="RELEASE",
            help="the Linux release to behave like: 6.7, 6.12, 6.18 or 7.3 (6.18, or what the story needs)",
        )
        parser.add_argument("--pause", action="store_true", help="wait for Enter after each step")
        parser.add_argument("--json", action="store_true", help="one JSON document (docs/commands/model.md)")

    def run(self, options: argparse.Namespace) -> int:
        from .model_stories import LATEST, STORIES, find_story

        if options.list:
            stories = [(story, _scenes(story, LATEST)) for story in STORIES.values()]
            _list_json(stories) if options.json else _list(stories)
            return ExitCode.DONE
        story = find_story(options.story)
        behaviour = options.behaviour or story.behaviour
        scenes = _scenes(story, behaviour)
        chosen = _numbered(story, scenes, options.step)
        if options.json:
            _print_json(story, behaviour, [scene for _, scene in chosen])
        else:
            _show(story, behaviour, chosen, len(scenes), pause=options.pause)
        return ExitCode.DONE


def _scenes(story: Story, behaviour: str) -> list[Scene]:
    return list(story.play(story.stage(behaviour)))


def _numbered(story: Story, scenes: Sequence[Scene], step: str | None) -> list[tuple[int, Scene]]:
    """All scenes with their numbers, or the one of this name. Raises InvalidArgument: there is none."""
    chosen = [(number, scene) for number, scene in enumerate(scenes, 1) if step in (None, scene.step.name)]
    if not chosen:
        names = ", ".join(scene.step.name for scene in scenes)
        raise InvalidArgument(f"the story {story.name!r} has no step {step!r}", hint=f"its steps are {names}")
    return chosen


def _list(stories: Sequence[tuple[Story, Sequence[Scene]]]) -> None:
    import textwrap

    width = min(width_of(sys.stdout), _WIDTH)
    for story, scenes in stories:
        print(f"{story.name:<10}{story.title}")
        steps = " ".join(scene.step.name for scene in scenes)
        print("\n".join(textwrap.wrap(steps, width, initial_indent=" " * 10, subsequent_indent=" " * 10)))


def _list_json(stories: Sequence[tuple[Story, Sequence[Scene]]]) -> None:
    listed = [
        {"name": story.name, "title": story.title, "steps": [scene.step.name for scene in scenes]}
        for story, scenes in stories
    ]
    write_json("model", SCHEMA_VERSION, {"stories": listed})


def _print_json(story: Story, behaviour: str, scenes: Sequence[Scene]) -> None:
    from .model_view import scene_document

    content = {
        "story": {"name": story.name, "title": story.title},
        "behaviour": behaviour,
        "page_size": story.stage(behaviour).machine.page_size,
        "steps": [scene_document(scene) for scene in scenes],
    }
    write_json("model", SCHEMA_VERSION, content)


def _show(story: Story, behaviour: str, scenes: Sequence[tuple[int, Scene]], count: int, *, pause: bool) -> None:
    from .model_view import Paint, legend_lines, scene_lines

    if pause and not (sys.stdin.isatty() and sys.stdout.isatty()):
        note("--pause waits for Enter on a terminal only")
        pause = False
    width = min(width_of(sys.stdout), _WIDTH)
    paint = Paint(use_colour(sys.stdout))
    print(f"{story.title}\n(a model of Linux {behaviour})\n")
    print("\n".join(legend_lines((scene for _, scene in scenes), width)))
    for number, scene in scenes:
        print()
        print("\n".join(scene_lines(scene, f"{number}/{count} {scene.step.name}", width, paint)))
        if pause and number < count and not _wait():
            break


def _wait() -> bool:
    """Wait for Enter. False: the input has ended."""
    print("\n[Enter]", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline() != ""

"""What was said in a call, told from its journal: who said what, when, and what was cut short."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from processors.digits import PREFIX

PEAKS_PER_SECOND = 50
"""How finely a record notes how loud either side was."""

QUIET = 2
"""A peak up to which there is nothing to hear: -42 dB below the loudest, of 255 steps."""

PAUSE_PEAKS = 6
"""Quiet peaks in a row, 120 ms, that are a pause between words: within words, sounds such as `p`
and `t` are silent for less."""

FAINT = 16
"""By which part of its loudest a sound may begin and end: 24 dB below."""

REACH_PEAKS = 15
"""How far beyond an engine's times, 0.3 s, such a sound may reach: they leave out soft endings."""

Peaks = npt.NDArray[np.uint8]


def turns(entries: Iterable[Mapping[str, Any]], peaks: Peaks) -> list[dict[str, Any]]:
    """The turns of a call, in order of time.

    Args:
        entries: The journal: see `processors.frame_log`.
        peaks: How loud caller and agent were, `PEAKS_PER_SECOND`, of shape `[peaks, 2]`.

    Returns:
        The caller's turns, `{"side": "caller", "start", "end", "text", "typed", "segments"}`, and
        the agent's, `{"side": "agent", "start", "end", "text", "cut", "latency", "words"}`. A
        segment and a word are `{"text", "start", "end"}`. Times are in seconds. Of the agent there
        is what was played: `cut` says that the caller interrupted it there. `latency` is that of
        the answer which the turn begins, see `processors.latency.turn_latency`, or None.
    """
    found: list[dict[str, Any]] = []
    replies: dict[int, dict[str, Any]] = {}
    caller: dict[str, Any] | None = None
    agent: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    speaking, firm, last_end = False, False, 0.0
    for entry in entries:
        event, at = entry["event"], float(entry["t"])
        if event == "caller-start":
            caller = None
        elif event == "heard" and entry["text"]:
            segments = [_to_the_end(segment, peaks[:, 0]) for segment in entry["segments"]]
            pressed = entry["text"].startswith(PREFIX)
            turn = _add_caller(found, None if pressed else caller, segments, typed=False)
            caller = None if pressed else turn
        elif event == "message":
            written = [m.get("content") for m in entry["messages"] if m.get("role") == "user"]
            for text in written:
                segment = {"text": str(text), "start": at, "end": at}
                _add_caller(found, None, [segment], typed=True)
        elif event == "agent-start":
            # Of what it says now there may be no whole word before it is cut.
            speaking, last_end, agent = True, at, None
        elif event == "agent-stop":
            speaking = False
        elif event == "interruption":
            if speaking and agent and not firm:
                agent["cut"] = True
            latency = None
        elif event == "turn-latency":
            latency = {key: entry[key] for key in ("turn", "total_ms", "stages")}
        elif event == "word":
            agent = replies.get(entry["reply"])
            if agent is None:
                agent = {"side": "agent", "text": "", "cut": False, "latency": latency, "words": []}
                latency = None
                replies[entry["reply"]] = agent
                found.append(agent)
            firm = entry.get("firm", False)
            start = _onset(peaks[:, 1], last_end, at)
            word = {"text": entry["text"].strip(), "start": round(start, 3), "end": round(at, 3)}
            agent["words"].append(word)
            agent["text"] = (agent["text"] + entry["text"]).lstrip()
            agent["start"] = agent["words"][0]["start"]
            agent["end"] = last_end = at
    return sorted(found, key=lambda turn: float(turn["start"]))


def _add_caller(
    found: list[dict[str, Any]],
    turn: dict[str, Any] | None,
    segments: list[dict[str, Any]],
    *,
    typed: bool,
) -> dict[str, Any]:
    """Add what the caller said to a turn, or begin one."""
    if turn is None:
        turn = {"side": "caller", "typed": typed, "segments": []}
        found.append(turn)
    turn["segments"] += segments
    turn["text"] = " ".join(segment["text"] for segment in turn["segments"])
    turn["start"], turn["end"] = turn["segments"][0]["start"], turn["segments"][-1]["end"]
    return turn


def _to_the_end(segment: Mapping[str, Any], peaks: Peaks) -> dict[str, Any]:
    """A segment with the soft sounds at its end, which engines count as silence."""
    first, last = (round(segment[key] * PEAKS_PER_SECOND) for key in ("start", "end"))
    loudest = int(peaks[first:last].max(initial=0))
    more = run = 0
    for index, loud in enumerate(peaks[last : last + REACH_PEAKS] > max(QUIET, loudest // FAINT)):
        run = 0 if loud else run + 1
        if run == PAUSE_PEAKS:
            break
        more = index + 1 if loud else more
    return {**segment, "end": round(segment["end"] + more / PEAKS_PER_SECOND, 3)}


def _onset(peaks: Peaks, earliest: float, end: float) -> float:
    """Where a word begins that ends at `end`: behind the last pause, if there is one."""
    first = round(earliest * PEAKS_PER_SECOND)
    quiet = peaks[first : round(end * PEAKS_PER_SECOND)] <= QUIET
    last_loud = len(quiet) - 1 - int(np.argmin(quiet[::-1])) if not quiet.all() else -1
    run = 0
    for index in range(last_loud, -1, -1):
        run = run + 1 if quiet[index] else 0
        if run == PAUSE_PEAKS:
            return max(earliest, (first + index + run) / PEAKS_PER_SECOND)
    return earliest

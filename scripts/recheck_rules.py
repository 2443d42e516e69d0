#!/usr/bin/env python3
"""Rechecks what `ringmaster replay show` prints against the rules of Blob, written anew from the
rules alone: it shares no code with the engine, so that a mistake in the engine's rules cannot hide
in its own replay. Python's standard library only.

    ringmaster replay show DIR | scripts/recheck_rules.py [--visits 90]
    scripts/recheck_rules.py --binary target/release/ringmaster DIR [--visits 90]
    scripts/recheck_rules.py --self-test FILE...
                         corrupts the rounds shown in each file, one field at a time, and requires
                         that each corruption is found, and each kind tried in one file at least

Prints "N rounds, M decisions: all follow from the rules", or the first violation with its round,
and exits 1. --visits is worlds x simulations; without it all decisions must have the same number.
All must be searched in full, unless --fast-visits says how many visits the others have, which must
be fewer, or --unsearched that some have none. Unknown extra fields are let be.
"""

import argparse
import copy
import json
import math
import random
import subprocess
import sys

RANKS, PACK = 13, 52
TRUMP_RULES = ("rotating", "turned", "spades", "hearts", "clubs", "diamonds", "none")
FIXED_TRUMP = {"spades": 0, "hearts": 1, "clubs": 2, "diamonds": 3, "none": None}
# Values travel as 32-bit floats.
TOLERANCE = 1e-3


class Violation(Exception):
    """A round that does not follow from the rules."""


def require(holds, what):
    if not holds:
        raise Violation(what)


def whole(value, low, high, what):
    fits = type(value) is int and low <= value <= high
    require(fits, f"{what} is {value!r}, not a whole number from {low} to {high}")
    return value


def wholes(values, count, low, high, what):
    fits = type(values) is list and len(values) == count
    require(fits, f"{what} is {values!r}, not a list of {count}")
    return [whole(value, low, high, what) for value in values]


def field(holder, name, kinds, what="the round"):
    require(name in holder, f"{what} has no {name}")
    value = holder[name]
    require(type(value) in kinds, f"{name} of {what} is {value!r}")
    return value


class Decision:
    """A choice that came up: what the replay must say of it."""

    def __init__(self, seat, phase, legal, chosen):
        self.seat, self.phase, self.legal, self.chosen = seat, phase, legal, chosen


class Table:
    """One round, played again from the cards dealt, the bids and the cards played."""

    def __init__(self, shown):
        self.players = whole(field(shown, "players", (int,)), 3, 8, "players")
        self.cards = whole(field(shown, "cards", (int,)), 1, PACK // self.players, "cards")
        self.dealer = whole(field(shown, "dealer", (int,)), 0, self.players - 1, "dealer")
        rules = field(shown, "rules", (dict,))
        self.trump_rule = field(rules, "trump", (str,), "rules")
        require(self.trump_rule in TRUMP_RULES, f"there is no trump rule {self.trump_rule!r}")
        self.restricted = field(rules, "dealer_restriction", (bool,), "rules")
        self.tricks_for_misses = field(rules, "missed_bid_scores_tricks", (bool,), "rules")
        self.deal(shown)
        self.find_trump(shown)
        self.bids = wholes(field(shown, "bids", (list,)), self.players, 0, self.cards, "bids")
        self.plays = field(shown, "plays", (list,))
        require(len(self.plays) == self.players * self.cards, f"{len(self.plays)} cards are played")
        self.decisions = []
        self.bid()
        self.tricks_won = [0] * self.players
        self.play()

    def deal(self, shown):
        hands = field(shown, "hands", (list,))
        there = f"there are {len(hands)} hands for {self.players} players"
        require(len(hands) == self.players, there)
        dealt = set()
        for seat, hand in enumerate(hands):
            wholes(hand, self.cards, 0, PACK - 1, f"the hand of seat {seat}")
            require(hand == sorted(hand), f"the hand of seat {seat} is not in order")
            dealt |= set(hand)
        require(len(dealt) == self.players * self.cards, "a card is dealt twice")
        self.hands = [set(hand) for hand in hands]
        self.dealt = dealt

    def find_trump(self, shown):
        self.trump = field(shown, "trump", (int, type(None)))
        turned = field(shown, "turned", (int, type(None)))
        if self.trump is not None:
            whole(self.trump, 0, 3, "trump")
        if self.trump_rule == "turned":
            if len(self.dealt) == PACK:
                nothing = turned is None and self.trump is None
                require(nothing, "a card is turned though none is left")
            else:
                whole(turned, 0, PACK - 1, "the turned card")
                require(turned not in self.dealt, "the turned card is in a hand")
                require(self.trump == turned // RANKS, "trump is not the turned card's suit")
            return
        require(turned is None, "a card is turned, which these rules do not ask for")
        if self.trump_rule != "rotating":
            wanted = FIXED_TRUMP[self.trump_rule]
            require(self.trump == wanted, f"trump is {self.trump}, not {self.trump_rule}")

    def came_up(self, seat, phase, legal, chosen):
        require(chosen in legal, f"{phase}: seat {seat} does {chosen}, legal are {legal}")
        # A single legal action is no decision.
        if len(legal) > 1:
            self.decisions.append(Decision(seat, phase, legal, chosen))

    def bid(self):
        so_far = 0
        for turn in range(self.players):
            seat = (self.dealer + 1 + turn) % self.players
            legal = list(range(self.cards + 1))
            if self.restricted and seat == self.dealer:
                legal = [bid for bid in legal if so_far + bid != self.cards]
            self.came_up(seat, "bidding", legal, self.bids[seat])
            so_far += self.bids[seat]

    def play(self):
        leader, played = (self.dealer + 1) % self.players, iter(self.plays)
        for _ in range(self.cards):
            trick = []
            for turn in range(self.players):
                seat = (leader + turn) % self.players
                who, card = wholes(next(played), 2, 0, PACK - 1, "a play")
                require(who == seat, f"seat {who} plays, it is seat {seat}'s turn")
                hand = self.hands[seat]
                following = [own for own in hand if trick and own // RANKS == trick[0] // RANKS]
                self.came_up(seat, "playing", sorted(following or hand), card)
                hand.remove(card)
                trick.append(card)
            leader = (leader + self.winner(trick)) % self.players
            self.tricks_won[leader] += 1

    def winner(self, trick):
        for suit in (self.trump, trick[0] // RANKS):
            of_suit = [card for card in trick if card // RANKS == suit]
            if of_suit:
                return trick.index(max(of_suit))
        raise AssertionError("the card led is of the led suit")

    def scores(self):
        def score(bid, won):
            return 10 + bid if bid == won else won if self.tricks_for_misses else 0

        return [score(bid, won) for bid, won in zip(self.bids, self.tricks_won)]


def check_decision(shown, expected, table, run):
    require(type(shown) is dict, f"{shown!r} is no decision")
    what = f"the decision of seat {expected.seat}, {expected.phase}"
    for name in ("seat", "phase", "legal", "chosen"):
        found, wanted = field(shown, name, (int, str, list), what), getattr(expected, name)
        require(found == wanted, f"{name} of {what} is {found!r}, by the rules {wanted!r}")
    counts = field(shown, "visits", (list, type(None)), what)
    value = field(shown, "value", (list, type(None)), what)
    full, policy = shown.get("full", True), shown.get("policy")
    require(type(full) is bool, f"full of {what} is {full!r}")
    require((counts is None) == (value is None), f"{what} has only one of visits and value")
    require(policy is None or full, f"{what} has a policy and was not searched in full")
    if policy is not None:
        check_policy(policy, len(expected.legal), f"policy of {what}")
    if counts is None:
        require(not full, f"{what} has no visits and was searched in full")
        require(run.unsearched, f"{what} was not searched, which only --unsearched allows")
        return
    wholes(counts, len(expected.legal), 0, 1 << 40, f"visits of {what}")
    run.check_visits(sum(counts), full, f"visits of {what}")
    visited = counts[expected.legal.index(expected.chosen)] > 0
    require(visited, f"{what} chose what was never visited")
    require(len(value) == table.players, f"value of {what} has {len(value)} entries")
    for points in value:
        fits = type(points) in (int, float) and math.isfinite(points)
        fits = fits and -TOLERANCE <= points <= 10 + table.cards + TOLERANCE
        require(fits, f"value of {what} is {points!r}, outside 0 to {10 + table.cards}")


def check_policy(policy, legal, what):
    require(type(policy) is list and len(policy) == legal, f"{what} is no list of {legal}")
    for share in policy:
        fits = type(share) in (int, float) and 0 <= share <= 1 + TOLERANCE
        require(fits, f"{what} has a share of {share!r}")
    require(abs(sum(policy) - 1) <= TOLERANCE, f"{what} adds up to {sum(policy)}, not 1")


class Run:
    """What must agree from round to round."""

    def __init__(self, visits, fast_visits, unsearched):
        self.visits = visits
        self.fast_visits = fast_visits
        self.unsearched = unsearched
        self.any_fast = False
        self.seed = self.rules = self.in_games = self.schedule = None
        self.rounds = {}
        self.decisions = 0

    def check_visits(self, visits, full, what):
        if full:
            self.visits = visits if self.visits is None else self.visits
            require(visits == self.visits, f"{what} add up to {visits}, not {self.visits}")
        else:
            allowed = self.fast_visits is not None
            require(allowed, f"{what} are not of a search in full, which only --fast-visits allows")
            said = f"{what} add up to {visits}, not {self.fast_visits}"
            require(visits == self.fast_visits, said)
            self.any_fast = True
        # Whichever came first.
        fewer = not self.any_fast or self.visits is None or self.fast_visits < self.visits
        said = f"{self.fast_visits} visits are no fewer than the {self.visits} of a search in full"
        require(fewer, said)

    def check(self, shown):
        """One round by itself."""
        number = whole(field(shown, "round", (int,)), 0, 1 << 63, "round")
        require(number not in self.rounds, "the round is there twice")
        seed = whole(field(shown, "seed", (int,)), 0, (1 << 64) - 1, "seed")
        self.seed = seed if self.seed is None else self.seed
        require(seed == self.seed, f"the seed is {seed}, before it was {self.seed}")
        table = Table(shown)
        rules = (table.trump_rule, table.restricted, table.tricks_for_misses)
        self.rules = rules if self.rules is None else self.rules
        require(rules == self.rules, "the house variants are not those of the rounds before")
        for name, counted in (("tricks_won", table.tricks_won), ("scores", table.scores())):
            found = wholes(field(shown, name, (list,)), table.players, 0, 10 + table.cards, name)
            require(found == counted, f"{name} is {found}, by the rules {counted}")
        decisions = field(shown, "decisions", (list,))
        for found, expected in zip(decisions, table.decisions):
            check_decision(found, expected, table, self)
        said = [found.get("full") for found in decisions]
        if any(full is not None for full in said):
            require(None not in said, "full is said of some of the round's decisions only")
            require(False in said, "full is said of decisions that all are")
        there, wanted = len(decisions), len(table.decisions)
        require(there == wanted, f"there are {there} decisions, by the rules {wanted}")
        self.decisions += there
        game = field(shown, "game", (dict, type(None)))
        self.in_games = game is not None if self.in_games is None else self.in_games
        require((game is not None) == self.in_games, "whole games and independent rounds are mixed")
        place = check_place(number, game, table) if game is not None else None
        schedule = game and game.get("schedule")
        self.schedule = schedule if not self.rounds else self.schedule
        require(schedule == self.schedule, "the schedule is not that of the rounds before")
        self.rounds[number] = (table, place)

    def check_games(self):
        """Rounds of one game against each other; some may be missing where a run was ended."""
        before = {}
        for number in sorted(self.rounds):
            table, place = self.rounds[number]
            if place is None:
                continue
            game, done, totals, first_cards = place
            try:
                if game in before:
                    last, last_done, last_totals, last_first = before[game]
                    gone = done - last_done
                    same = (table.players, first_cards) == (last.players, last_first)
                    require(same, "the game's table changes")
                    left = table.dealer == (last.dealer + gone) % table.players
                    require(left, "the dealer does not move one seat to the left")
                    if gone == 1:
                        sums = [total + score for total, score in zip(last_totals, last.scores())]
                        require(totals == sums, f"totals are {totals}, the scores add up to {sums}")
                    risen = all(now >= then for now, then in zip(totals, last_totals))
                    require(risen, "a total falls")
                before[game] = (table, done, totals, first_cards)
            except Violation as violation:
                raise Violation(f"round {number}: {violation}") from None


def schedule(players, cards):
    """Cards dealt by round of a whole game."""
    return [*range(cards, 1, -1), *[1] * players, *range(2, cards + 1)]


def check_place(number, game, table):
    what, most = "the round's game", PACK // table.players
    first_cards = whole(field(game, "first_cards", (int,), what), 1, most, "first_cards")
    cards = game.get("schedule")
    if cards is None:
        cards = schedule(table.players, first_cards)
    else:
        require(type(cards) is list and cards, f"the schedule is {cards!r}")
        wholes(cards, len(cards), 1, most, "the schedule")
        require(first_cards == max(cards), f"first_cards is {first_cards}, not {max(cards)}")
    total = whole(field(game, "rounds_total", (int,), what), 1, 255, "rounds_total")
    require(total == len(cards), f"rounds_total is {total}, by the schedule {len(cards)}")
    done = whole(field(game, "rounds_done", (int,), what), 0, total - 1, "rounds_done")
    wanted = cards[done]
    require(table.cards == wanted, f"{table.cards} cards are dealt, by the schedule {wanted}")
    index = whole(field(game, "number", (int,), what), 0, 1 << 63, "the game's number")
    in_place = number == index * total + done
    require(in_place, f"round {done} of game {index} cannot have this number")
    totals = field(game, "totals", (list,), what)
    wholes(totals, table.players, 0, done * (10 + first_cards), "totals")
    if table.trump_rule == "rotating":
        trump = (0, 1, 2, 3, None)[done % 5]
        require(table.trump == trump, f"trump is {table.trump}, by the rotation {trump}")
    return index, done, totals, first_cards


def recheck(rounds, visits, fast_visits, unsearched):
    run = Run(visits, fast_visits, unsearched)
    for place, shown in enumerate(rounds):
        try:
            require(type(shown) is dict, "no JSON object")
            run.check(shown)
        except Violation as violation:
            number = shown.get("round") if type(shown) is dict else None
            raise Violation(f"round {number} (line {place + 1}): {violation}") from None
    run.check_games()
    return run


# Each mutation changes one field of one round and returns False where there is nothing to change.
# "always": whatever it made must be rejected. "sometimes": the changed round may be another lawful
# one (another trump that would have won the same tricks), so at least one of all attempts must be
# rejected.


def add(holder, key, amount):
    holder[key] += amount
    return True


def put(holder, key, value):
    changed = holder[key] != value
    holder[key] = value
    return changed


def searched(shown):
    return [d for d in shown["decisions"] if d["visits"] is not None]


def pick(shown, rng, phase, name):
    found = [d for d in searched(shown) if phase in (None, d["phase"]) and name in d]
    return rng.choice(found) if found else None


def swap_cards(shown, rng):
    one, other = rng.sample(range(shown["players"]), 2)
    place = rng.randrange(shown["cards"])
    hands = shown["hands"]
    hands[one][place], hands[other][place] = hands[other][place], hands[one][place]
    hands[one].sort(), hands[other].sort()
    return True


def replace_card(shown, rng):
    unseen = sorted(set(range(PACK)) - {card for hand in shown["hands"] for card in hand})
    if not unseen:
        return False
    hand = rng.choice(shown["hands"])
    hand[rng.randrange(len(hand))] = rng.choice(unseen)
    hand.sort()
    return True


def double_card(shown, rng):
    one, other = rng.sample(range(shown["players"]), 2)
    shown["hands"][one][0] = shown["hands"][other][0]
    shown["hands"][one].sort()
    return True


def swap_plays(shown, rng):
    place = rng.randrange(len(shown["plays"]) - 1)
    plays = shown["plays"]
    plays[place], plays[place + 1] = plays[place + 1], plays[place]
    return True


def in_list(name, change):
    def mutate(shown, rng):
        values = shown[name]
        place = rng.randrange(len(values))
        before = values[place]
        values[place] = change(before, shown, rng)
        return values[place] != before

    return mutate


def in_play(part, change):
    def mutate(shown, rng):
        return put(rng.choice(shown["plays"]), part, change(shown, rng))

    return mutate


def in_decision(change, phase=None, name="visits"):
    def mutate(shown, rng):
        decision = pick(shown, rng, phase, name)
        return decision is not None and change(decision, shown, rng)

    return mutate


def in_game(change):
    def mutate(shown, rng):
        return shown["game"] is not None and change(shown["game"], shown, rng)

    return mutate


def drop(name):
    def mutate(shown, rng):
        values = shown[name]
        return bool(values) and values.pop(rng.randrange(len(values))) is not None

    return mutate


def flip(name):
    def mutate(shown, rng):
        shown["rules"][name] = not shown["rules"][name]
        return True

    return mutate


def in_decision_list(name, change):
    def mutate(decision, shown, rng):
        values = decision[name]
        place = rng.randrange(len(values))
        values[place] = change(values[place], shown)
        return True

    return in_decision(mutate, name=name)


def other_chosen(decision, shown, rng):
    others = [action for action in decision["legal"] if action != decision["chosen"]]
    return put(decision, "chosen", rng.choice(others))


def drop_legal(decision, shown, rng):
    place = rng.randrange(len(decision["legal"]))
    decision["legal"].pop(place)
    decision["visits"][place - 1] += decision["visits"].pop(place)
    return True


def add_legal(decision, shown, rng):
    other = next(action for action in range(PACK) if action not in decision["legal"])
    decision["legal"] = sorted([*decision["legal"], other])
    decision["visits"].insert(decision["legal"].index(other), 0)
    return True


def double_decision(shown, rng):
    if not shown["decisions"]:
        return False
    place = rng.randrange(len(shown["decisions"]))
    shown["decisions"].insert(place, copy.deepcopy(shown["decisions"][place]))
    return True


def search_forced(shown, rng):
    """A decision for the last card of a hand, which is forced."""
    if not searched(shown):
        return False
    forced = copy.deepcopy(searched(shown)[-1])
    seat, card = shown["plays"][-1]
    visits = [sum(forced["visits"])]
    forced.update(seat=seat, phase="playing", legal=[card], visits=visits, chosen=card)
    shown["decisions"].append(forced)
    return True


def other_dealer(shown, rng):
    players = shown["players"]
    return put(shown, "dealer", (shown["dealer"] + rng.randrange(1, players)) % players)


def other_bid(bid, shown, rng):
    return (bid + rng.randrange(1, shown["cards"] + 1)) % (shown["cards"] + 1)


def never_visited(decision, shown, rng):
    visits, chosen = sum(decision["visits"]), decision["chosen"]
    return put(decision, "visits", [0 if a == chosen else visits for a in decision["legal"]])


def other_phase(decision, shown, rng):
    return put(decision, "phase", "playing" if decision["phase"] == "bidding" else "bidding")


def one_off(name):
    return in_game(lambda game, shown, rng: add(game, name, rng.choice((-1, 1))))


def off_rotation(game, shown, rng):
    rotates = shown["rules"]["trump"] == "rotating"
    return rotates and put(shown, "trump", 0 if shown["trump"] is None else None)


def other_schedule(game, shown, rng):
    cards = game.get("schedule")
    return cards is not None and add(cards, rng.randrange(len(cards)), rng.choice((-1, 1)))


ALWAYS = {
    "round repeated": lambda shown, rng: put(shown, "round", shown["other_round"]),
    "seed": lambda shown, rng: add(shown, "seed", 1),
    "players more": lambda shown, rng: add(shown, "players", 1),
    "players fewer": lambda shown, rng: add(shown, "players", -1),
    "players as text": lambda shown, rng: put(shown, "players", str(shown["players"])),
    "cards more": lambda shown, rng: add(shown, "cards", 1),
    "cards fewer": lambda shown, rng: add(shown, "cards", -1),
    "trump out of range": lambda shown, rng: put(shown, "trump", 4),
    "dealer": other_dealer,
    "hands: swapped cards": swap_cards,
    "hands: an undealt card": replace_card,
    "hands: a card twice": double_card,
    "hands: one missing": drop("hands"),
    "bids": in_list("bids", other_bid),
    "bids too high": in_list("bids", lambda bid, shown, rng: shown["cards"] + 1),
    "plays: seat": in_play(0, lambda shown, rng: rng.randrange(shown["players"])),
    "plays: card": in_play(1, lambda shown, rng: rng.randrange(PACK)),
    "plays: order": swap_plays,
    "plays: one missing": drop("plays"),
    "tricks_won": in_list("tricks_won", lambda won, shown, rng: won + 1),
    "scores": in_list("scores", lambda score, shown, rng: 0 if score else 10),
    "scores by one": in_list("scores", lambda score, shown, rng: score + 1),
    "decisions: one missing": drop("decisions"),
    "decisions: one twice": double_decision,
    "decisions: a forced move": search_forced,
    "seat": in_decision(lambda d, shown, rng: put(d, "seat", (d["seat"] + 1) % shown["players"])),
    "phase": in_decision(other_phase),
    "legal: one fewer": in_decision(drop_legal),
    "legal: one more": in_decision(add_legal),
    "legal: order": in_decision(lambda d, shown, rng: d["legal"].reverse() is None),
    "visits": in_decision_list("visits", lambda visits, shown: visits + 1),
    "visits: negative": in_decision_list("visits", lambda visits, shown: -1 - visits),
    "visits: one missing": in_decision(lambda d, shown, rng: d["visits"].pop() >= 0),
    "chosen bid": in_decision(other_chosen, "bidding"),
    "chosen card": in_decision(other_chosen, "playing"),
    "chosen was never visited": in_decision(never_visited),
    "visits: none": in_decision(lambda d, shown, rng: put(d, "visits", None)),
    "full": in_decision(lambda d, shown, rng: put(d, "full", not d["full"]), name="full"),
    "full: missing": in_decision(
        lambda d, shown, rng: len(shown["decisions"]) > 1 and d.pop("full") is not None,
        name="full",
    ),
    "policy": in_decision_list("policy", lambda share, shown: share + 0.1),
    "policy: negative": in_decision_list("policy", lambda share, shown: -0.01),
    "policy: one missing": in_decision(
        lambda d, shown, rng: d["policy"].pop() is not None, name="policy"
    ),
    "value too high": in_decision_list("value", lambda points, shown: 10.01 + shown["cards"]),
    "value negative": in_decision_list("value", lambda points, shown: -0.01),
    "value: one missing": in_decision(lambda d, shown, rng: d["value"].pop() is not None),
    "value: no number": in_decision_list("value", lambda points, shown: math.nan),
    "turned": lambda shown, rng: put(shown, "turned", shown["hands"][0][0]),
    "rules: unknown trump": lambda shown, rng: put(shown["rules"], "trump", "best"),
    "rules: another trump rule": lambda shown, rng: put(
        shown["rules"], "trump", rng.choice(TRUMP_RULES)
    ),
    "rules: dealer_restriction": flip("dealer_restriction"),
    "rules: missed_bid_scores_tricks": flip("missed_bid_scores_tricks"),
    "game: number": in_game(lambda game, shown, rng: add(game, "number", 1)),
    "game: totals": in_game(
        lambda game, shown, rng: add(game["totals"], rng.randrange(shown["players"]), 1)
    ),
    "game: rounds_done": one_off("rounds_done"),
    "game: rounds_total": one_off("rounds_total"),
    "game: first_cards": one_off("first_cards"),
    "game: none": lambda shown, rng: put(shown, "game", None),
    "game: trump rotation": in_game(off_rotation),
    "game: schedule": in_game(other_schedule),
}
# Alone in its replay a round's house variants are anyone's guess; what they allow must still agree.
ALONE = {
    "rules alone: dealer_restriction": flip("dealer_restriction"),
    "rules alone: missed_bid_scores_tricks": flip("missed_bid_scores_tricks"),
    "trump": lambda shown, rng: put(shown, "trump", rng.choice((0, 1, 2, 3, None))),
}


def rejected(rounds, *limits):
    try:
        recheck(rounds, *limits)
    except Violation:
        return True
    return False


def check_limits(rounds, visits):
    """Only what is allowed need not be searched in full, tried on a round that all is."""
    several = (shown for shown in rounds if len(shown["decisions"]) > 1)
    shown = next((shown for shown in several if "full" not in shown["decisions"][0]), None)
    if shown is None:
        return
    fast, unsearched, same = (copy.deepcopy(shown) for _ in range(3))
    for changed in (fast, unsearched, same):
        for place, decision in enumerate(changed["decisions"]):
            decision["full"] = place > 0
    first = fast["decisions"][0]
    first["visits"] = [int(action == first["chosen"]) for action in first["legal"]]
    unsearched["decisions"][0].update(visits=None, value=None)
    for changed, *allowed in ((fast, 1, False), (unsearched, None, True)):
        recheck([changed], visits, *allowed)
        require(rejected([changed], visits, None, False), "self-test: a search that is not in full")
    found = rejected([same], None, visits, False)
    require(found, "self-test: a fast search before those in full, and as long")


def self_test(rounds, *limits, attempts=12):
    """Returns the kinds of corruption that could not be tried, and how many were rejected."""
    run = recheck(rounds, *limits)
    if len(rounds) < 2:
        raise Violation("the self-test needs two rounds or more")
    limits = (run.visits, run.fast_visits, run.unsearched)
    check_limits(rounds, run.visits)
    rng = random.Random(20)
    # Enough for every kind of round, few enough that all corruptions take seconds.
    rounds = sorted(rounds, key=lambda shown: shown["round"])[:60]
    untried, total = [], 0
    for name, mutate in [*ALWAYS.items(), *ALONE.items()]:
        tried = found = 0
        for _ in range(attempts * (4 if name in ALONE else 1)):
            # The first round sets what the others must agree with.
            place = rng.randrange(1, len(rounds))
            changed = copy.deepcopy(rounds[place])
            changed["other_round"] = rounds[place - 1]["round"]
            before = copy.deepcopy(changed)
            if not mutate(changed, rng) or changed == before:
                continue
            others = [] if name in ALONE else rounds
            tried += 1
            if rejected([*others[:place], changed, *others[place + 1 :]], *limits):
                found += 1
            elif name in ALWAYS:
                what = f"{name} of round {before['round']}"
                raise Violation(f"self-test: {what} was changed and nothing was found")
        total += found
        if tried == 0:
            untried.append(name)
        elif found == 0:
            raise Violation(f"self-test: {name} was changed {tried} times and nothing was found")
    return untried, total


def self_test_all(files, *limits):
    untried, total = [*ALWAYS, *ALONE], 0
    for file in files:
        with open(file, encoding="utf-8") as lines:
            still, found = self_test(list(parsed(lines)), *limits)
        untried, total = [name for name in untried if name in still], total + found
    require(not untried, f"self-test: nothing to change for: {', '.join(untried)}")
    print(f"{len(ALWAYS) + len(ALONE)} kinds of corruption, {total} rejected")


def lines_of(options):
    if options.binary is None:
        yield from sys.stdin
        return
    command = [options.binary, "replay", "show", *options.paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shown:
        yield from shown.stdout
    require(shown.returncode == 0, f"{options.binary} replay show ended with {shown.returncode}")


def parsed(lines):
    for place, line in enumerate(lines):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise Violation(f"line {place + 1} is no JSON: {error}") from None


def main():
    parser = argparse.ArgumentParser(
        description="Rechecks the output of `ringmaster replay show` against the rules of Blob."
    )
    parser.add_argument(
        "paths",
        nargs="*",
        help="with --binary the folder of the replay, with --self-test files of rounds shown; "
        "else lines come from stdin",
    )
    parser.add_argument("--binary", help="the ringmaster program")
    parser.add_argument("--visits", type=int, help="worlds x simulations of a decision")
    parser.add_argument(
        "--fast-visits", type=int, help="visits of a decision that is not searched in full"
    )
    parser.add_argument(
        "--unsearched", action="store_true", help="decisions may be without a search"
    )
    parser.add_argument(
        "--self-test", action="store_true", help="corrupt the rounds; all must be found"
    )
    options = parser.parse_args()
    limits = (options.visits, options.fast_visits, options.unsearched)
    if options.self_test:
        if options.binary is not None or not options.paths:
            parser.error("--self-test takes files of rounds shown")
    elif len(options.paths) != (options.binary is not None):
        parser.error("DIR and --binary go together")
    try:
        if options.self_test:
            self_test_all(options.paths, *limits)
            return 0
        run = recheck(parsed(lines_of(options)), *limits)
        require(run.rounds, "there is no round")
        rounds = len(run.rounds)
        print(f"{rounds} rounds, {run.decisions} decisions: all follow from the rules")
        return 0
    except Violation as violation:
        print(violation)
        return 1


if __name__ == "__main__":
    sys.exit(main())

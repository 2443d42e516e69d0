//! The check that a record which comes from outside stays within the limits of the game. After it a
//! round can be laid out without a panic; whether its actions are legal is asked when it is played
//! again.

use super::bounds::{max_decisions, max_visits};
use super::record::{RoundRecord, SearchKind};
use crate::game::{CardSet, PACK, Standing, Trump, TrumpRule, check_table, most_points};
use crate::plural::counted;

impl RoundRecord {
    /// Checks every field; says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        check_table(self.players, self.cards).map_err(|error| error.to_string())?;
        if self.dealer >= self.players {
            return Err(format!(
                "dealer {} of {} players",
                self.dealer, self.players
            ));
        }
        self.check_hands()?;
        if !self.trump_agrees() {
            return Err("trump does not agree with the rules".into());
        }
        let moves = self.players + self.players * self.cards;
        if self.actions.len() != moves {
            return Err(format!("{} actions, not {moves}", self.actions.len()));
        }
        self.check_searches()?;
        match self.game {
            Some(game) if !self.is_possible(&game.standing) => {
                Err("its place in the game is on no schedule".into())
            }
            _ => Ok(()),
        }
    }

    fn check_hands(&self) -> Result<(), String> {
        let mut dealt = CardSet::EMPTY;
        for (seat, &hand) in self.hands.iter().enumerate() {
            let size = if seat < self.players { self.cards } else { 0 };
            if hand.len() != size || !dealt.and(hand).is_empty() {
                let size = counted(size, "card");
                return Err(format!("seat {seat}: not a hand of {size} of its own"));
            }
            dealt = dealt.or(hand);
        }
        match self.turned {
            Some(card) if dealt.contains(card) => Err("the turned card is in a hand".into()),
            _ => Ok(()),
        }
    }

    fn check_searches(&self) -> Result<(), String> {
        let (players, cards) = (self.players, self.cards);
        let with_policy = self.searches.contains(&SearchKind::FullWithPolicy);
        if self.searches.len() > max_decisions(players, cards)
            || self.visits.len() > max_visits(players, cards)
            || self.values.len() != self.decisions() * players
            || self.policies.len() > self.visits.len()
            || self.policies.is_empty() == with_policy
        {
            return Err("searches, visits, values or policies of no possible number".into());
        }
        if !self
            .values
            .iter()
            .chain(&self.policies)
            .all(|value| value.is_finite())
        {
            return Err("a value or a policy is not a number".into());
        }
        Ok(())
    }

    fn trump_agrees(&self) -> bool {
        let pack_is_dealt = self.players * self.cards == PACK;
        match self.rules.trump {
            TrumpRule::Turned => match self.turned {
                Some(card) => self.trump == Trump::Suit(card.suit()),
                None => pack_is_dealt && self.trump == Trump::None,
            },
            _ if self.turned.is_some() => false,
            rule => rule.fixed().is_none_or(|trump| self.trump == trump),
        }
    }

    /// Can a game on any schedule stand so? On which one it is the run's manifest knows.
    fn is_possible(&self, standing: &Standing) -> bool {
        let (largest, done) = (standing.first_cards as usize, standing.rounds_done as usize);
        let (seated, absent) = standing.totals.split_at(self.players);
        check_table(self.players, largest).is_ok()
            && self.cards <= largest
            && standing.rounds_done < standing.rounds_total
            && seated
                .iter()
                .all(|&total| total as usize <= done * most_points(largest))
            && absent.iter().all(|&total| total == 0)
    }
}

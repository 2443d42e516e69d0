//! The oracle: exhaustive max^n on a deal with all cards open. Every seat plays to maximise its own
//! score; where several actions are equally good for the mover the outcome is not determined, so
//! the oracle returns the range of outcomes over every way of breaking such ties.

use ringmaster::game::{MAX_PLAYERS, Phase, Round, bits};
use ringmaster::search::{Values, scaled_scores};

/// What perfect play by all can lead to: the lowest and highest value of each seat, by absolute
/// seat, over all ways in which indifferent movers may choose (bounds: they hold, they need not be
/// tight).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcomes {
    /// Lowest value of each seat.
    pub low: Values,
    /// Highest value of each seat.
    pub high: Values,
}

/// Searches everything below `round`. Only for tiny deals: the work grows with the number of lines.
pub fn exhaustive(round: &Round) -> Outcomes {
    if round.phase() == Phase::Over {
        let values = scaled_scores(round);
        return Outcomes {
            low: values,
            high: values,
        };
    }
    let mover = round.mover();
    let children: Vec<Outcomes> = bits(round.legal())
        .map(|action| {
            let mut next = *round;
            next.play(action);
            exhaustive(&next)
        })
        .collect();
    // An action may be chosen unless another is better for the mover however ties fall.
    let assured = children
        .iter()
        .map(|child| child.low[mover])
        .fold(f32::NEG_INFINITY, f32::max);
    let mut all = Outcomes {
        low: [f32::INFINITY; MAX_PLAYERS],
        high: [f32::NEG_INFINITY; MAX_PLAYERS],
    };
    for child in children.iter().filter(|child| child.high[mover] >= assured) {
        for seat in 0..MAX_PLAYERS {
            all.low[seat] = all.low[seat].min(child.low[seat]);
            all.high[seat] = all.high[seat].max(child.high[seat]);
        }
    }
    all.low[mover] = all.low[mover].max(assured);
    all
}

//! Which action a simulation takes below the root, and at it: PUCT.

/// The parameters of PUCT.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Puct {
    /// Weight of the prior.
    pub c_puct: f32,
    /// First-play urgency: an untried action is worth the node's value less this times the square
    /// root of the prior tried.
    pub fpu_reduction: f32,
    /// Visits of value -1 that a leaf in flight counts as.
    pub virtual_loss: f32,
}

/// One action of a node, and what selection knows of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Edge {
    pub prior: f32,
    /// Simulations through it that are finished: a whole number.
    pub visits: f32,
    /// Their summed values for the node's mover, and the mean.
    pub value_sum: f32,
    pub value_mean: f32,
    /// Simulations through it that are in flight.
    pub in_flight: u32,
    /// The node it leads to; 0, the root, while there is none.
    pub child: u32,
}

impl Puct {
    /// What an untried action counts as, at a node of this value for its mover.
    pub(super) fn untried(&self, value: f32, tried: f32) -> f32 {
        value - self.fpu_reduction * f32::sqrt(tried)
    }

    /// The best edge where nothing is in flight, of a node with so many visits below it.
    #[inline]
    pub(super) fn best(&self, edges: &[Edge], visits: f32, untried: f32) -> usize {
        self.argmax(edges, visits, |edge| {
            let is_tried = edge.visits > 0.0;
            let value = if is_tried { edge.value_mean } else { untried };
            (edge.visits, value)
        })
    }

    /// The best edge, each simulation in flight counting as `virtual_loss` visits of value -1.
    pub(super) fn best_with_virtual_loss(&self, edges: &[Edge], value: f32) -> usize {
        let lost = |edge: &Edge| self.virtual_loss * edge.in_flight as f32;
        let (mut total, mut tried) = (0.0, 0.0);
        for edge in edges {
            let visits = edge.visits + lost(edge);
            total += visits;
            tried += if visits > 0.0 { edge.prior } else { 0.0 };
        }
        let untried = self.untried(value, tried);
        self.argmax(edges, total, |edge| {
            let visits = edge.visits + lost(edge);
            let is_tried = visits > 0.0;
            let value = (edge.value_sum - lost(edge)) / visits;
            (visits, if is_tried { value } else { untried })
        })
    }

    /// The edge with the greatest Q + c P sqrt(1 + N) / (1 + n), the first among equals. N is
    /// `total`; `seen` gives an edge's n and Q.
    #[inline]
    fn argmax(&self, edges: &[Edge], total: f32, seen: impl Fn(&Edge) -> (f32, f32)) -> usize {
        let explore = self.c_puct * f32::sqrt(1.0 + total);
        let (mut best, mut best_score) = (0, f32::NEG_INFINITY);
        for (nth, edge) in edges.iter().enumerate() {
            let (visits, value) = seen(edge);
            let score = value + explore * edge.prior / (1.0 + visits);
            if score > best_score {
                (best, best_score) = (nth, score);
            }
        }
        best
    }
}

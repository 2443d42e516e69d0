//! New weights on their way into play: looked for, offered to the evaluator, and from the next job
//! on played by once it has loaded them. Once the user wants no more than what is in hand, none are
//! taken up.

use super::Coordinator;
use crate::engine::error::RunError;
use crate::engine::regions::NetworkWord;
use crate::killpoint::{self, KillPoint};

impl Coordinator {
    /// Says which networks are in use.
    pub(super) fn publish_networks_in_use(&mut self) {
        let (oldest, newest) = self.run.networks_in_use();
        let store = |word, network| self.networks.store(word as usize, u64::from(network));
        store(NetworkWord::Oldest, oldest);
        store(NetworkWord::Newest, newest);
    }

    /// Looks for new weights, offers them to the evaluator, and has them play once it has loaded
    /// them.
    pub(super) fn renew_weights(&mut self) -> Result<(), RunError> {
        self.publish_networks_in_use();
        if !self.run.goes_on() {
            // The evaluator may have taken up an offer by now: a network without leaves costs
            // memory only.
            if self.offer.take().is_some() {
                self.networks.store(NetworkWord::Offer as usize, 0);
            }
            return Ok(());
        }
        let Some(offer) = self.offer else {
            if let Some(network) = self.run.find_weights() {
                killpoint::pass(KillPoint::WeightsFound);
                self.offers += 1;
                let offer = self.offers << 32 | u64::from(network);
                self.offer = Some(offer);
                self.networks.store(NetworkWord::Offer as usize, offer);
                self.evaluator_bell.ring();
            }
            return Ok(());
        };
        let answered = |word: NetworkWord| self.networks.load(word as usize) == offer;
        let (loaded, refused) = (
            answered(NetworkWord::Loaded),
            answered(NetworkWord::Refused),
        );
        if loaded || refused {
            self.offer = None;
            self.networks.store(NetworkWord::Offer as usize, 0);
        }
        if loaded {
            killpoint::pass(KillPoint::WeightsLoaded);
            self.run.adopt_weights()?;
            killpoint::pass(KillPoint::WeightsAdopted);
            self.publish_networks_in_use();
        } else if refused {
            self.run.refuse_weights("the evaluator cannot use them");
        }
        Ok(())
    }
}

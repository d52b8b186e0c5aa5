//! The claim of the bucket for older records that the cluster owns.
//!
//! A claim is recorded here before it is put into the bucket. So a cluster owns no claim that it
//! did not record: neither that of a lost cluster with the same id, nor that of a later restore.

use super::{Catalog, Refusal};
use crate::manifest::{BucketClaim, RestoreState};

impl Catalog {
    /// Records a claim: the first one, a later one, or the end of the restore that recorded it.
    pub(super) fn record_claim(&mut self, claim: BucketClaim) -> Result<(), Refusal> {
        let is_accepted = self.claim.as_ref().is_none_or(|recorded| {
            let same = BucketClaim { restore: claim.restore, ..*recorded } == claim;
            let is_end = (recorded.restore, claim.restore)
                == (RestoreState::Unfinished, RestoreState::Finished);
            claim.epoch > recorded.epoch || (same && (is_end || recorded.restore == claim.restore))
        });
        match &self.claim {
            Some(recorded) if !is_accepted => {
                Err(Refusal::OtherClaim { epoch: recorded.epoch, holder: recorded.holder })
            }
            Some(_) | None => {
                self.claim = Some(claim);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CatalogCommand;
    use crate::state::catalog::Answer;

    const FIRST: BucketClaim = BucketClaim { epoch: 1, holder: 5, restore: RestoreState::No };

    #[test]
    fn t2_a_claim_is_replaced_only_by_a_later_one_or_the_end_of_its_restore() {
        let mut catalog = Catalog::default();
        let mut record = |claim: BucketClaim| {
            let (answer, _) = catalog.apply(0, CatalogCommand::RecordClaim(claim));
            if let Answer::Refused(refusal) = answer {
                return Err(refusal);
            }
            assert_eq!((answer, catalog.claim), (Answer::Done, Some(claim)));
            Ok(())
        };
        let refused = |epoch, holder| Err(Refusal::OtherClaim { epoch, holder });
        assert_eq!(record(FIRST), Ok(()));
        assert_eq!(record(FIRST), Ok(()), "again");
        let other = BucketClaim { holder: 6, ..FIRST };
        assert_eq!(record(other), refused(1, 5), "two brokers drew a holder");
        let unfinished = RestoreState::Unfinished;
        assert_eq!(record(BucketClaim { restore: unfinished, ..FIRST }), refused(1, 5));

        let restored = BucketClaim { epoch: 2, holder: 7, restore: unfinished };
        assert_eq!(record(restored), Ok(()));
        assert_eq!(record(BucketClaim { restore: RestoreState::No, ..restored }), refused(2, 7));
        assert_eq!(record(restored), Ok(()), "it continues");
        let finished = BucketClaim { restore: RestoreState::Finished, ..restored };
        assert_eq!(record(BucketClaim { holder: 8, ..finished }), refused(2, 7));
        assert_eq!(record(finished), Ok(()));
        assert_eq!(record(restored), refused(2, 7), "a finished restore stays so");
        assert_eq!(record(FIRST), refused(2, 7));
    }
}

//! The feature level of the cluster: the newest format of commands that every broker reads.

use super::Catalog;
use crate::command::CatalogCommand;
use crate::id::BrokerId;

impl Catalog {
    /// What a broker that reads formats through `reads` has to propose; `None` if the catalog knows
    /// it.
    #[must_use]
    pub fn level_report(&self, broker: BrokerId, reads: u8) -> Option<CatalogCommand> {
        let is_known = self.levels.get(&broker) == Some(&reads);
        (!is_known).then_some(CatalogCommand::ReportLevel { broker, level: reads })
    }

    /// Takes the report of a broker, and raises the level to what every broker reads. The level
    /// never falls, because entries of it may be in the logs. A broker that was removed does not
    /// count.
    pub(super) fn report_level(&mut self, broker: BrokerId, level: u8) {
        if self.removed_brokers.contains(&broker) {
            return;
        }
        self.levels.insert(broker, level);
        self.raise_level();
    }

    /// Raises the level to what every broker reads.
    pub(super) fn raise_level(&mut self) {
        let brokers = self.brokers.keys().chain(self.levels.keys());
        // `None` of a broker that has not reported is below every level.
        let common = brokers.map(|id| self.levels.get(id).copied()).min().flatten();
        self.level = self.level.max(common.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::FORMAT_MAX;
    use crate::state::catalog::{Answer, BrokerInfo};

    fn report(catalog: &mut Catalog, broker: i32, level: u8) {
        let command = CatalogCommand::ReportLevel { broker: BrokerId(broker), level };
        assert_eq!(catalog.apply(0, command).0, Answer::Done);
    }

    #[test]
    fn the_level_rises_when_every_broker_has_reported_a_higher_one_and_never_falls() {
        let mut catalog = Catalog::default();
        for broker in 1..=3 {
            catalog.brokers.insert(BrokerId(broker), BrokerInfo::default());
        }
        report(&mut catalog, 1, 7);
        report(&mut catalog, 2, 5);
        assert_eq!(catalog.level, 0, "broker 3 has not reported");
        report(&mut catalog, 3, 6);
        assert_eq!(catalog.level, 5);
        report(&mut catalog, 2, 6);
        assert_eq!(catalog.level, 6);
        report(&mut catalog, 2, 5);
        assert_eq!(catalog.level, 6, "entries of level 6 may be written by now");
        report(&mut catalog, 4, 6);
        for broker in 1..=3 {
            report(&mut catalog, broker, 7);
        }
        assert_eq!(catalog.level, 6, "broker 4 is not listed, and it reported");
    }

    #[test]
    fn a_broker_reports_once_and_again_with_another_version() {
        let mut catalog = Catalog::first("c".to_owned(), BrokerId(1), 2);
        assert_eq!(
            (catalog.level, catalog.level_report(BrokerId(1), FORMAT_MAX)),
            (FORMAT_MAX, None)
        );
        let newer = catalog.level_report(BrokerId(1), FORMAT_MAX + 1).expect("another version");
        catalog.apply(0, newer);
        assert_eq!(catalog.level_report(BrokerId(1), FORMAT_MAX + 1), None);
        assert_eq!(catalog.level, FORMAT_MAX + 1);
        assert!(catalog.level_report(BrokerId(2), FORMAT_MAX).is_some(), "it never reported");
    }
}

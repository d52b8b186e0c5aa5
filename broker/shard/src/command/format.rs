//! The format number of each command.
//!
//! The number of an entry is the lowest one of a version of the broker that reads it. The number of
//! a command that carries another one is never below the number of the one inside.

use super::{CatalogCommand, ChangeTier, Command, ShardCommand, TierChange};

/// The newest format that this broker reads: the feature level that it reports to the catalog.
pub const FORMAT_MAX: u8 = 9;

/// The newest format that is written at any feature level. A broker that reads no more than this
/// forms a cluster of one.
pub const FORMAT_WITHOUT_LEVEL: u8 = 4;

/// The lowest format that can express a command.
pub(crate) fn format_of(command: &Command) -> u8 {
    match command {
        Command::Append(_) => 1,
        Command::Shard(command) => of_shard_command(command),
        Command::Catalog(command) => of_catalog_command(command),
    }
}

/// Whether a command may be written at a feature level. The report from which the level follows is
/// written at any level.
pub(crate) fn is_written_at(level: u8, command: &Command) -> bool {
    matches!(command, Command::Catalog(CatalogCommand::ReportLevel { .. }))
        || format_of(command) <= level.max(FORMAT_WITHOUT_LEVEL)
}

fn of_shard_command(command: &ShardCommand) -> u8 {
    match command {
        ShardCommand::OpenPartitions(_)
        | ShardCommand::ClosePartitions(_)
        | ShardCommand::AdvanceLogStart(_)
        | ShardCommand::ExpireProducers(_)
        | ShardCommand::CommitOffsets(_)
        | ShardCommand::DeleteOffsets { .. }
        | ShardCommand::SetGeneration(_)
        | ShardCommand::DeleteGroup { .. }
        | ShardCommand::RemoveTopics(_)
        | ShardCommand::ExpireOffsets { .. } => 1,
        ShardCommand::StartOffsets { .. } => 2,
        ShardCommand::ExpireSilentProducers(_) => 3,
        ShardCommand::CloseTopics(_) => 4,
        ShardCommand::CheckState { .. } => 5,
        ShardCommand::ChangeTier(ChangeTier { change, .. }) => of_tier_change(change),
    }
}

fn of_tier_change(change: &TierChange) -> u8 {
    match change {
        TierChange::Enable
        | TierChange::Disable
        | TierChange::AddObject(_)
        | TierChange::FoldObjects(_)
        | TierChange::SetLocalStart(_)
        | TierChange::DropObjects { .. }
        | TierChange::ObjectsDeleted { .. } => 8,
        TierChange::Restore(_) => 9,
    }
}

fn of_catalog_command(command: &CatalogCommand) -> u8 {
    match command {
        CatalogCommand::CreateTopics(_)
        | CatalogCommand::DeleteTopics(_)
        | CatalogCommand::AddPartitions { .. }
        | CatalogCommand::AlterConfigs { .. }
        | CatalogCommand::AllocateProducerIds { .. }
        | CatalogCommand::SetOwner { .. }
        | CatalogCommand::ClaimFence { .. } => 1,
        CatalogCommand::Fenced { command, .. } => of_catalog_command(command).max(2),
        CatalogCommand::DeclareTopic { .. }
        | CatalogCommand::ReleaseTopic { .. }
        | CatalogCommand::BindGroup { .. }
        | CatalogCommand::UnbindGroup { .. } => 2,
        CatalogCommand::AbandonTopics(_) => 4,
        CatalogCommand::ReportLevel { .. } => 5,
        CatalogCommand::RegisterBroker { .. }
        | CatalogCommand::ForgetBroker { .. }
        | CatalogCommand::SetStanding { .. }
        | CatalogCommand::PlaceReplica { .. }
        | CatalogCommand::SetRole { .. }
        | CatalogCommand::RemoveReplica { .. } => 6,
        CatalogCommand::ChangeStanding { .. } => 7,
        CatalogCommand::RecordClaim(_) => 9,
    }
}

//! DescribeLogDirs: the size of each partition that this broker holds. There is one directory, the
//! data directory.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_log_dirs_request::DescribeLogDirsRequest;
use ropewalk_codec::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::{Call, Close, Context};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    _call: &Call,
    request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, Close> {
    let asked: Option<HashMap<Str, Vec<i32>>> = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect());
    let mut topics = Vec::new();
    for view in ctx.view.all() {
        let wanted = match &asked {
            None => None,
            Some(asked) => match asked.get(&*view.name) {
                None => continue,
                wanted => wanted,
            },
        };
        let count = i32::try_from(view.partitions.len()).expect("bounded by limits");
        let indexes = (0..count).filter(|index| wanted.is_none_or(|w| w.contains(index)));
        let partitions = indexes.filter_map(|index| {
            let (id, home) = view.partition(index)?;
            let size = ctx.node.shard(home.shard)?.log(&id)?.size_bytes();
            Some(DescribeLogDirsPartition {
                partition_index: index,
                partition_size: i64::try_from(size).unwrap_or(i64::MAX),
                offset_lag: 0,
                is_future_key: false,
            })
        });
        let partitions: Vec<_> = partitions.collect();
        if !partitions.is_empty() {
            topics.push(DescribeLogDirsTopic { name: Str::from(&*view.name), partitions });
        }
    }
    let (total_bytes, usable_bytes) = ropewalk_node::blocking::in_place(|| disk_bytes(ctx));
    let result = DescribeLogDirsResult {
        log_dir: ctx.log_dir.clone(),
        topics,
        total_bytes,
        usable_bytes,
        ..Default::default()
    };
    Ok(DescribeLogDirsResponse { results: vec![result], ..Default::default() })
}

/// Total and free bytes of the data directory's file system.
fn disk_bytes(ctx: &Context) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(ctx.log_dir.as_str()) else { return (-1, -1) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize));
    (bytes(stat.f_blocks).unwrap_or(i64::MAX), bytes(stat.f_bavail).unwrap_or(i64::MAX))
}

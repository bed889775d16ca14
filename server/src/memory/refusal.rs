//! Why a plan can't hold, with numbers that would.

/// A setting that cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    /// The fixed parts alone are too much.
    #[error(
        "--memory {}MiB is too little: {}MiB are needed for --cores {cores} with {pool_buffers} pool \
         buffers each and a few connections; raise it, or lower --cores, --pool-buffers or (of remote stores) --fetches",
        .memory_bytes >> 20, .least_bytes.div_ceil(1 << 20)
    )]
    TooLittle {
        /// What was declared.
        memory_bytes: u64,
        /// The least that works.
        least_bytes: u64,
        /// Threads.
        cores: usize,
        /// Pool buffers per core.
        pool_buffers: usize,
    },
    /// The connections asked for don't fit.
    #[error(
        "--memory {}MiB holds at most {fit} connections: set --max-connections {fit}, or --memory {}MiB \
         for {connections}",
        .memory_bytes >> 20, .least_bytes.div_ceil(1 << 20)
    )]
    Connections {
        /// What was declared.
        memory_bytes: u64,
        /// Asked for.
        connections: usize,
        /// What fits.
        fit: usize,
        /// The least memory for what was asked.
        least_bytes: u64,
    },
    /// Hot objects would leave too little for connections.
    #[error(
        "--hot-objects {}KiB: {}KiB is the most that --memory {}MiB leaves for them beside the connections; \
         lower it, or raise --memory or lower --max-connections",
        .hot_bytes.div_ceil(1024), .most_bytes >> 10, .memory_bytes >> 20
    )]
    HotObjects {
        /// What was declared.
        memory_bytes: u64,
        /// Asked for.
        hot_bytes: u64,
        /// What is possible.
        most_bytes: u64,
    },
    /// Readahead would leave too little for connections, or has too little.
    #[error(
        "--read-ahead {}KiB: with --memory {}MiB and these connections it is between {}KiB, a buffer per core, and {}KiB, \
         or 0; change it, or raise --memory or lower --max-connections",
        .readahead_bytes.div_ceil(1024), .memory_bytes >> 20, .least_bytes >> 10, .most_bytes >> 10
    )]
    ReadAhead {
        /// What was declared.
        memory_bytes: u64,
        /// Asked for.
        readahead_bytes: u64,
        /// The least that works.
        least_bytes: u64,
        /// What is possible.
        most_bytes: u64,
    },
    /// Rebuilt blocks would leave too little for connections, or have too little.
    #[error(
        "--rebuilt-blocks {}KiB: with --memory {}MiB and these connections it is between {}KiB and {}KiB, or 0; change it, \
         or raise --memory or lower --max-connections, --hot-objects or --read-ahead",
        .rebuilt_bytes.div_ceil(1024), .memory_bytes >> 20, .least_bytes >> 10, .most_bytes >> 10
    )]
    RebuiltBlocks {
        /// What was declared.
        memory_bytes: u64,
        /// Asked for.
        rebuilt_bytes: u64,
        /// The least that works.
        least_bytes: u64,
        /// What is possible.
        most_bytes: u64,
    },
    /// The limit on descriptors doesn't allow the connections asked for.
    #[error(
        "--max-connections {connections}: the limit on descriptors allows {allowed}; raise it \
         (`ulimit -n`, LimitNOFILE=) or set --max-connections {allowed}"
    )]
    Descriptors {
        /// Asked for.
        connections: usize,
        /// What the limit allows.
        allowed: usize,
    },
    /// The limit on descriptors leaves none, or next to none, for connections.
    #[error(
        "the limit on descriptors leaves {allowed} for connections: raise it to {least} at least \
         (`ulimit -n {least}`, LimitNOFILE={least}), or lower --cores or --share-files"
    )]
    NoDescriptors {
        /// What the limit allows.
        allowed: usize,
        /// The least limit that works.
        least: usize,
    },
}

//! The plan of the declared memory: which part goes where, and what does not fit.

use serde::Serialize;

use super::costs::{
    ACCESS_LOG_BYTES, ACCESS_RECORD_BYTES, ADMIN_TLS_BYTES, CONNECTION_KERNEL_BYTES,
    CONNECTION_USER_BYTES, COUNTERS_BYTES, CREDIT_PART, DECODER_BYTES, FIXED_BYTES, PAGE,
    RING_BYTES, TABLE_CACHE_BYTES, TAHOE_BYTES, TLS_CONNECTION_BYTES, TLS_CORE_BYTES,
    VERIFIED_BYTES, admin_bytes, connection_bytes, remote_bytes, socket_bytes, stores_bytes,
};
use super::limits::{
    HOT_PART, LISTEN_BACKLOG, NETWORK_BYTES, NETWORKS_MAX, OBJECT_FILES_EXTRA,
    READAHEAD_BUFFER_BYTES, READAHEAD_BUFFERS_MAX_DEFAULT, READAHEAD_PART,
    REBUILT_BYTES_MAX_DEFAULT, REBUILT_BYTES_MIN, REBUILT_PART, RECEIVE_BUFFER_BYTES, REFUSALS_MAX,
    SEND_BUFFER_BYTES_MIN, SEND_BUFFER_FLOOR_BYTES_MAX, SHARE_FILE_BYTES, reserve_buffers,
};
use super::refusal::PlanRefusal;

/// What the plan starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Declared {
    /// Memory that the process and its sockets may use, in bytes.
    pub memory_bytes: u64,
    /// Threads.
    pub cores: usize,
    /// Stores and nodes.
    pub stores: usize,
    /// Those of the stores that are remote.
    pub remote_stores: usize,
    /// Fetches from them at one time.
    pub fetches: usize,
    /// Pool buffers per core.
    pub pool_buffers: usize,
    /// Bytes of one.
    pub pool_buffer_bytes: usize,
    /// Memory for hot objects, of all cores; `None` is the usual part.
    pub hot_bytes: Option<u64>,
    /// Memory for readahead, over all cores; `None` is the usual part.
    pub readahead_bytes: Option<u64>,
    /// Memory for rebuilt blocks, of all cores; `None` is the usual part.
    pub rebuilt_bytes: Option<u64>,
    /// Share files that one core may have open.
    pub share_files: usize,
    /// Whether files of a Tahoe-LAFS grid are served.
    pub gateway: bool,
    /// Whether requests are logged.
    pub access_log: bool,
    /// Whether there is TLS.
    pub tls: bool,
    /// Whether there is TLS at the admin listener.
    pub admin_tls: bool,
    /// Connections asked for; `None` is as many as fit.
    pub connections: Option<usize>,
    /// Connections that the limit on descriptors allows.
    pub descriptors_allow: usize,
    /// Descriptors that the server needs beside its connections'.
    pub descriptors_own: usize,
}

/// Where the declared memory goes. The parts add up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// What was declared.
    pub declared: Declared,
    /// Code, tables, heap, the admin thread.
    pub fixed_bytes: u64,
    /// The admin listener's connections.
    pub admin_bytes: u64,
    /// The threads of the stores.
    pub stores_bytes: u64,
    /// Remote stores: fetches, and what is known of their files.
    pub remote_bytes: u64,
    /// The access log: what waits to be written.
    pub access_log_bytes: u64,
    /// Per core: ring.
    pub ring_bytes: u64,
    /// Per core: pool buffers.
    pub pool_bytes: u64,
    /// Per core: decoder.
    pub decoder_bytes: u64,
    /// Per core: leaf checksums and open objects.
    pub cache_bytes: u64,
    /// Per core: which leaves were verified.
    pub verified_bytes: u64,
    /// Per core: what is noted of clients' networks.
    pub networks_bytes: u64,
    /// Per core: connections in the backlog, and those being refused.
    pub waiting_bytes: u64,
    /// Per core: TLS records that are made, and handshakes.
    pub tls_bytes: u64,
    /// What TLS takes of a connection; it is a part of what every connection may hold.
    pub tls_connection_bytes: u64,
    /// Connections in all.
    pub connections: usize,
    /// `SO_SNDBUF` that every connection has.
    pub send_buffer_floor: u32,
    /// What every connection may hold, kernel memory included.
    pub connection_bytes: u64,
    /// Per core: small objects that are asked for often.
    pub hot_bytes: u64,
    /// Per core: readahead buffers.
    pub readahead_bytes: u64,
    /// Per core: rebuilt blocks that others want soon.
    pub rebuilt_bytes: u64,
    /// What is left, lent to fast connections.
    pub credit_bytes: u64,
}

/// Connections below which a server is not worth starting.
const CONNECTIONS_MIN: usize = 16;

impl MemoryPlan {
    /// Divides the declared memory, or says which number to change.
    pub fn new(declared: Declared) -> Result<MemoryPlan, PlanRefusal> {
        let Declared {
            memory_bytes,
            cores,
            pool_buffers,
            pool_buffer_bytes,
            ..
        } = declared;
        // What the log keeps of a request, for as long as its response takes.
        let record = if declared.access_log {
            ACCESS_RECORD_BYTES
        } else {
            0
        };
        let (tls_bytes, tls_connection_bytes, backlogs) = match declared.tls {
            true => (TLS_CORE_BYTES, TLS_CONNECTION_BYTES, 2),
            false => (0, 0, 1),
        };
        let connection_bytes =
            |send_buffer| connection_bytes(send_buffer) + record + tls_connection_bytes;
        let least_connection = connection_bytes(SEND_BUFFER_BYTES_MIN);
        let accepted_unseen =
            CONNECTION_KERNEL_BYTES + (2 * u64::from(RECEIVE_BUFFER_BYTES)).next_multiple_of(PAGE);
        let mut plan = MemoryPlan {
            declared,
            fixed_bytes: FIXED_BYTES,
            admin_bytes: admin_bytes(cores, declared.stores)
                + if declared.admin_tls {
                    ADMIN_TLS_BYTES
                } else {
                    0
                },
            stores_bytes: stores_bytes(declared.stores),
            remote_bytes: remote_bytes(declared.remote_stores, declared.fetches),
            access_log_bytes: if declared.access_log {
                ACCESS_LOG_BYTES
            } else {
                0
            },
            ring_bytes: RING_BYTES,
            pool_bytes: pool_buffers as u64 * pool_buffer_bytes as u64,
            decoder_bytes: DECODER_BYTES,
            cache_bytes: TABLE_CACHE_BYTES
                + COUNTERS_BYTES
                + declared.share_files as u64 * SHARE_FILE_BYTES
                + if declared.gateway { TAHOE_BYTES } else { 0 },
            verified_bytes: VERIFIED_BYTES,
            networks_bytes: (NETWORKS_MAX * NETWORK_BYTES) as u64,
            tls_bytes,
            tls_connection_bytes,
            waiting_bytes: backlogs * LISTEN_BACKLOG as u64 * accepted_unseen
                + REFUSALS_MAX as u64 * least_connection,
            connections: 0,
            send_buffer_floor: SEND_BUFFER_BYTES_MIN,
            connection_bytes: least_connection,
            hot_bytes: 0,
            readahead_bytes: 0,
            rebuilt_bytes: 0,
            credit_bytes: 0,
        };
        let base = plan.fixed_bytes
            + plan.admin_bytes
            + plan.stores_bytes
            + plan.remote_bytes
            + plan.access_log_bytes
            + cores as u64 * plan.core_bytes();
        // Memory for n connections at the least floor: n * connection = left * (1 - 1/CREDIT_PART).
        let memory_for = |n: usize| {
            base + (n as u64 * least_connection * CREDIT_PART).div_ceil(CREDIT_PART - 1)
                + CREDIT_PART
        };
        let left = memory_bytes.saturating_sub(base);
        let for_connections = left - left / CREDIT_PART;
        let fit = (for_connections / least_connection) as usize;
        if fit < CONNECTIONS_MIN {
            let least_bytes = memory_for(CONNECTIONS_MIN);
            return Err(PlanRefusal::TooLittle {
                memory_bytes,
                least_bytes,
                cores,
                pool_buffers,
            });
        }
        let allowed = declared.descriptors_allow;
        if allowed < declared.connections.map_or(CONNECTIONS_MIN, |_| 1) {
            let wanted = declared.connections.unwrap_or(CONNECTIONS_MIN);
            let least = declared.descriptors_own + wanted;
            return Err(PlanRefusal::NoDescriptors { allowed, least });
        }
        plan.connections = match declared.connections {
            Some(connections) if connections > fit => {
                let least_bytes = memory_for(connections);
                return Err(PlanRefusal::Connections {
                    memory_bytes,
                    connections,
                    fit: fit.min(allowed),
                    least_bytes,
                });
            }
            Some(connections) if connections > allowed => {
                return Err(PlanRefusal::Descriptors {
                    connections,
                    allowed,
                });
            }
            Some(connections) => connections,
            None => fit.min(allowed),
        };
        // A larger floor while at least half of what is left stays credit.
        while plan.send_buffer_floor < SEND_BUFFER_FLOOR_BYTES_MAX {
            let larger = connection_bytes(plan.send_buffer_floor * 2);
            if plan.connections as u64 * larger > left / 2 {
                break;
            }
            plan.send_buffer_floor *= 2;
            plan.connection_bytes = larger;
        }
        let left = left - plan.connections as u64 * plan.connection_bytes;
        let hot_bytes = declared.hot_bytes.unwrap_or(left / HOT_PART);
        if hot_bytes > left / 2 {
            return Err(PlanRefusal::HotObjects {
                memory_bytes,
                hot_bytes,
                most_bytes: left / 2,
            });
        }
        plan.hot_bytes = hot_bytes / cores as u64;
        let (all, buffer) = (cores as u64, READAHEAD_BUFFER_BYTES as u64);
        let most_bytes = (left / 2 - hot_bytes.min(left / 2)).max(left / 4);
        plan.readahead_bytes = match declared.readahead_bytes {
            None => {
                let buffers = left / READAHEAD_PART / all / buffer;
                buffers.min(READAHEAD_BUFFERS_MAX_DEFAULT) * buffer
            }
            Some(0) => 0,
            Some(readahead_bytes)
                if readahead_bytes < all * buffer || readahead_bytes > most_bytes =>
            {
                return Err(PlanRefusal::ReadAhead {
                    memory_bytes,
                    readahead_bytes,
                    least_bytes: all * buffer,
                    most_bytes,
                });
            }
            Some(readahead_bytes) => readahead_bytes / all / buffer * buffer,
        };
        let least_bytes = all * REBUILT_BYTES_MIN;
        // An eighth at least stays credit.
        let others = all * (plan.hot_bytes + plan.readahead_bytes);
        let most_bytes = (left - left / 8).saturating_sub(others);
        plan.rebuilt_bytes = match declared.rebuilt_bytes {
            None => match (left / REBUILT_PART).min(most_bytes) / all {
                few if few < REBUILT_BYTES_MIN => 0,
                bytes => bytes.min(REBUILT_BYTES_MAX_DEFAULT),
            },
            Some(0) => 0,
            Some(rebuilt_bytes) if rebuilt_bytes < least_bytes || rebuilt_bytes > most_bytes => {
                return Err(PlanRefusal::RebuiltBlocks {
                    memory_bytes,
                    rebuilt_bytes,
                    least_bytes,
                    most_bytes,
                });
            }
            Some(rebuilt_bytes) => rebuilt_bytes / all,
        };
        plan.credit_bytes =
            left - all * (plan.hot_bytes + plan.readahead_bytes + plan.rebuilt_bytes);
        Ok(plan)
    }

    /// Buffers of each core's reserve.
    pub fn reserve_buffers(&self) -> usize {
        reserve_buffers(self.declared.pool_buffers)
    }

    /// Readahead buffers that each core has.
    pub fn readahead_buffers(&self) -> usize {
        usize::try_from(self.readahead_bytes / READAHEAD_BUFFER_BYTES as u64).unwrap_or(0)
    }

    /// The plan in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} MiB declared: {} connections at {:.1} KiB each, {} MiB of credit to lend",
            self.declared.memory_bytes >> 20,
            self.connections,
            self.connection_bytes as f64 / 1024.0,
            self.credit_bytes >> 20,
        )
    }

    /// Bytes of one core, its parts added up.
    pub fn core_bytes(&self) -> u64 {
        self.ring_bytes
            + self.pool_bytes
            + self.decoder_bytes
            + self.cache_bytes
            + self.verified_bytes
            + self.hot_bytes
            + self.readahead_bytes
            + self.rebuilt_bytes
            + self.networks_bytes
            + self.waiting_bytes
            + self.tls_bytes
    }
}

impl std::fmt::Display for MemoryPlan {
    /// A table: what each part takes, how often, and what that makes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cores = self.declared.cores as u64;
        let rows = [
            ("process", 1, self.fixed_bytes),
            ("admin listener", 1, self.admin_bytes),
            ("stores: threads", 1, self.stores_bytes),
            ("remote stores: fetches, listings", 1, self.remote_bytes),
            ("access log", 1, self.access_log_bytes),
            ("core: pool buffers", cores, self.pool_bytes),
            ("core: ring", cores, self.ring_bytes),
            ("core: decoder", cores, self.decoder_bytes),
            ("core: checksums and open objects", cores, self.cache_bytes),
            ("core: verified leaves", cores, self.verified_bytes),
            ("core: hot objects", cores, self.hot_bytes),
            ("core: readahead", cores, self.readahead_bytes),
            ("core: rebuilt blocks", cores, self.rebuilt_bytes),
            ("core: networks of clients", cores, self.networks_bytes),
            ("core: backlog and refusals", cores, self.waiting_bytes),
            ("core: TLS records and handshakes", cores, self.tls_bytes),
            ("connection", self.connections as u64, self.connection_bytes),
        ];
        writeln!(
            f,
            "{:<34} {:>8} {:>12} {:>12}",
            "part", "count", "KiB each", "KiB"
        )?;
        let declared = self.declared.memory_bytes >> 10;
        let mut left = declared;
        for (name, count, bytes) in rows {
            let (each, all) = (bytes as f64 / 1024.0, (count * bytes).div_ceil(1024));
            left = left.saturating_sub(all);
            writeln!(f, "{name:<34} {count:>8} {each:>12.1} {all:>12}")?;
        }
        // What the others are rounded up by is taken from here, so that the table adds up as it is read.
        writeln!(
            f,
            "{:<34} {:>8} {left:>10}.0 {left:>12}",
            "credit to lend", 1
        )?;
        writeln!(f, "{:<34} {:>8} {:>12} {declared:>12}", "declared", "", "")?;
        writeln!(
            f,
            "\na connection: {} bytes of state, {} of kernel structures, {} of socket queues",
            CONNECTION_USER_BYTES,
            CONNECTION_KERNEL_BYTES,
            socket_bytes(self.send_buffer_floor),
        )?;
        let reserve = self.reserve_buffers() as u64 * self.declared.pool_buffer_bytes as u64;
        writeln!(
            f,
            "of the credit, up to {} KiB become pool buffers while reads hang on stores that don't answer",
            (cores * reserve) >> 10,
        )?;
        let files = self.declared.share_files;
        writeln!(
            f,
            "{files} share files of each core may be open: {} objects of 4+2, {} of 10+4 are read at one time; clients \
             that wait need none",
            files / (6 + OBJECT_FILES_EXTRA),
            files / (14 + OBJECT_FILES_EXTRA),
        )?;
        write!(f, "{}", self.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{
        POOL_BUFFER_BYTES_DEFAULT, POOL_BUFFERS_DEFAULT, SHARE_FILES_DEFAULT, SHARE_FILES_MIN,
        descriptors_own, share_files,
    };
    use super::*;
    use proptest::prelude::*;

    fn declared(memory_mib: u64, connections: Option<usize>) -> Declared {
        Declared {
            memory_bytes: memory_mib << 20,
            cores: 2,
            stores: 6,
            remote_stores: 0,
            fetches: 0,
            pool_buffers: POOL_BUFFERS_DEFAULT,
            pool_buffer_bytes: POOL_BUFFER_BYTES_DEFAULT,
            hot_bytes: None,
            rebuilt_bytes: None,
            readahead_bytes: None,
            share_files: SHARE_FILES_DEFAULT,
            gateway: false,
            access_log: false,
            tls: false,
            admin_tls: false,
            connections,
            descriptors_allow: usize::MAX,
            descriptors_own: 100,
        }
    }

    #[test]
    fn ten_thousand_clients_fit_256_mib_and_two_thousand_96() {
        let plan = MemoryPlan::new(declared(256, None)).unwrap();
        assert!(plan.connections >= 10_104, "{plan:?}");
        let plan = MemoryPlan::new(declared(96, Some(2_000))).unwrap();
        assert!(plan.credit_bytes >= 2 << 20, "{plan:?}");
    }

    #[test]
    fn a_refusal_names_numbers_that_work() {
        let PlanRefusal::TooLittle { least_bytes, .. } =
            MemoryPlan::new(declared(8, None)).unwrap_err()
        else {
            panic!("8 MiB are too little");
        };
        let least = least_bytes.div_ceil(1 << 20);
        assert!(MemoryPlan::new(declared(least, None)).is_ok());
        assert!(MemoryPlan::new(declared(least - 1, None)).is_err());

        let PlanRefusal::Connections {
            fit, least_bytes, ..
        } = MemoryPlan::new(declared(96, Some(50_000))).unwrap_err()
        else {
            panic!("50,000 connections don't fit 96 MiB");
        };
        assert!(MemoryPlan::new(declared(96, Some(fit))).is_ok());
        assert!(MemoryPlan::new(declared(96, Some(fit + 1))).is_err());
        let least = least_bytes.div_ceil(1 << 20);
        assert!(MemoryPlan::new(declared(least, Some(50_000))).is_ok());
        assert!(MemoryPlan::new(declared(least - 2, Some(50_000))).is_err());
    }

    #[test]
    fn hot_objects_take_an_eighth_of_the_rest_or_what_is_said() {
        let with = |hot_bytes| {
            MemoryPlan::new(Declared {
                hot_bytes,
                ..declared(512, Some(2_000))
            })
        };
        let (usual, none) = (with(None).unwrap(), with(Some(0)).unwrap());
        assert_eq!(none.hot_bytes, 0);
        let rest = none.credit_bytes + 2 * (none.readahead_bytes + none.rebuilt_bytes);
        assert_eq!(2 * usual.hot_bytes, rest / 8 / 2 * 2);
        assert_eq!(usual.credit_bytes, none.credit_bytes - 2 * usual.hot_bytes);
        let PlanRefusal::HotObjects { most_bytes, .. } = with(Some(512 << 20)).unwrap_err() else {
            panic!("there must be credit left");
        };
        assert_eq!(with(Some(most_bytes)).unwrap().hot_bytes, most_bytes / 2);
        assert!(with(Some(most_bytes + 1)).is_err());
    }

    #[test]
    fn reading_ahead_takes_an_eighth_of_the_rest_or_what_is_said() {
        const BUFFER: u64 = READAHEAD_BUFFER_BYTES as u64;
        let with = |memory_mib, readahead_bytes| {
            MemoryPlan::new(Declared {
                readahead_bytes,
                ..declared(memory_mib, Some(2_000))
            })
        };
        let (usual, none) = (with(256, None).unwrap(), with(256, Some(0)).unwrap());
        assert_eq!(none.readahead_bytes, 0);
        let rest = none.credit_bytes + 2 * (none.hot_bytes + none.rebuilt_bytes);
        assert_eq!(usual.readahead_bytes, rest / 8 / 2 / BUFFER * BUFFER);
        assert!(usual.readahead_buffers() > 0);
        assert_eq!(with(1 << 20, None).unwrap().readahead_buffers(), 32);
        assert_eq!(with(256, Some(3 * BUFFER)).unwrap().readahead_buffers(), 1);
        for wrong in [2 * BUFFER - 1, 1 << 30] {
            let PlanRefusal::ReadAhead {
                least_bytes,
                most_bytes,
                ..
            } = with(256, Some(wrong)).unwrap_err()
            else {
                panic!("a buffer per core, and no more than leaves credit");
            };
            assert_eq!(least_bytes, 2 * BUFFER);
            assert!(with(256, Some(least_bytes)).is_ok());
            assert!(with(256, Some(most_bytes)).is_ok());
            assert!(with(256, Some(most_bytes + 1)).is_err());
        }
    }

    #[test]
    fn rebuilt_blocks_take_an_eighth_of_the_rest_or_what_is_said() {
        let with = |memory_mib, rebuilt_bytes| {
            MemoryPlan::new(Declared {
                rebuilt_bytes,
                ..declared(memory_mib, Some(2_000))
            })
        };
        let (usual, none) = (with(256, None).unwrap(), with(256, Some(0)).unwrap());
        assert_eq!(none.rebuilt_bytes, 0);
        let rest = none.credit_bytes + 2 * (none.hot_bytes + none.readahead_bytes);
        assert_eq!(usual.rebuilt_bytes, rest / 8 / 2);
        assert_eq!(with(1 << 20, None).unwrap().rebuilt_bytes, 32 << 20);
        // Too few to be of use.
        assert_eq!(
            MemoryPlan::new(declared(256, None)).unwrap().rebuilt_bytes,
            0
        );
        for wrong in [1, 1 << 30] {
            let PlanRefusal::RebuiltBlocks {
                least_bytes,
                most_bytes,
                ..
            } = with(256, Some(wrong)).unwrap_err()
            else {
                panic!("some tens of blocks per core, and no more than leaves credit");
            };
            assert_eq!(with(256, Some(least_bytes)).unwrap().rebuilt_bytes, 2 << 20);
            assert!(with(256, Some(least_bytes - 1)).is_err());
            let most = with(256, Some(most_bytes)).unwrap();
            assert!(most.credit_bytes >= rest / 8);
            assert!(with(256, Some(most_bytes + 1)).is_err());
        }
    }

    #[test]
    fn share_files_leave_half_of_the_descriptors() {
        assert_eq!(share_files(2, 1 << 20), SHARE_FILES_DEFAULT);
        assert_eq!(share_files(64, 1 << 20), SHARE_FILES_DEFAULT);
        for (cores, descriptors) in [(1, 4096), (2, 4096), (2, 1536), (128, 1 << 19)] {
            let files = share_files(cores, descriptors);
            assert!(files < SHARE_FILES_DEFAULT, "{cores} {descriptors}");
            let left = descriptors - descriptors_own(cores, files);
            assert!((0..cores).contains(&(left - descriptors / 2)), "{left}");
        }
        assert_eq!(share_files(8, 1024), SHARE_FILES_MIN);
    }

    #[test]
    fn few_descriptors_are_no_plan_for_nobody() {
        let with = |connections, descriptors_allow| {
            MemoryPlan::new(Declared {
                descriptors_allow,
                ..declared(256, connections)
            })
        };
        let refused = |allowed, least| Err(PlanRefusal::NoDescriptors { allowed, least });
        assert_eq!(with(None, 0), refused(0, 116));
        assert_eq!(with(None, 15), refused(15, 116));
        assert_eq!(with(None, 16).unwrap().connections, 16);
        assert_eq!(with(Some(3), 0), refused(0, 103));
        assert_eq!(with(Some(3), 3).unwrap().connections, 3);
        let refused = PlanRefusal::Descriptors {
            connections: 3,
            allowed: 2,
        };
        assert_eq!(with(Some(3), 2), Err(refused));
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_what_was_declared(
            memory in 1u64..1 << 40,
            cores in 1usize..64,
            pool_buffers in 1usize..64,
            connections in prop::option::of(1usize..1 << 20),
            hot_bytes in prop::option::of(0u64..1 << 30),
            readahead_bytes in prop::option::of(0u64..1 << 30),
            rebuilt_bytes in prop::option::of(0u64..1 << 30),
            descriptors_allow in CONNECTIONS_MIN..1 << 20,
        ) {
            let declared = Declared {
                memory_bytes: memory,
                cores,
                stores: 6,
                remote_stores: 0,
                fetches: 0,
                pool_buffers,
                pool_buffer_bytes: POOL_BUFFER_BYTES_DEFAULT,
                hot_bytes,
                readahead_bytes,
                rebuilt_bytes,
                share_files: SHARE_FILES_DEFAULT,
                gateway: cores % 2 == 0,
                access_log: cores % 3 == 0,
                tls: false,
            admin_tls: false,
                connections,
                descriptors_allow,
                descriptors_own: 100,
            };
            if let Ok(plan) = MemoryPlan::new(declared) {
                let sum = plan.fixed_bytes
                    + plan.admin_bytes
                    + plan.stores_bytes
                    + plan.access_log_bytes
                    + cores as u64 * plan.core_bytes()
                    + plan.connections as u64 * plan.connection_bytes
                    + plan.credit_bytes;
                prop_assert_eq!(sum, memory);
                prop_assert!(plan.connections <= descriptors_allow);
                prop_assert_eq!(plan.readahead_bytes % READAHEAD_BUFFER_BYTES as u64, 0);
                let record = if declared.access_log { ACCESS_RECORD_BYTES } else { 0 };
                let each = connection_bytes(plan.send_buffer_floor) + record;
                prop_assert_eq!(plan.connection_bytes, each);
            }
        }
    }
}

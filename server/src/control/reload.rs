//! SIGHUP: the configuration is read again, and what can change does, without touching a download.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::cores::Cores;
use super::logging;
use super::state::{LastReload, ServerState};
use super::worker::Order;
use crate::config::{ConfigError, Settings};
use crate::memory::budget::{Allowance, Claim};
use crate::memory::costs::{admin_bytes, stores_bytes};
use crate::objects::servable::Bounds;
use crate::s3::keys::{Keys, KeysError};
use crate::stores::{Store, StoresError};
use crate::tls::acceptor::TlsError;

/// Why a configuration can't take the place of the running one.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Stores(#[from] StoresError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("nothing to serve: give a --store or a --tahoe-node")]
    NoStores,
    #[error(
        "{0} KiB of memory are needed for so many stores, and were not planned for at the start: restart the server"
    )]
    Memory(u64),
}

/// Reads the configuration again when it is told to.
pub(super) struct Reloader<L> {
    load: L,
    /// What can't change, as it was at the start.
    fixed: Vec<(&'static str, String)>,
    survey_every: Option<Duration>,
    /// What stores take that were not there at the start.
    claim: Claim,
    /// Stores that were removed and may still be read from.
    removed: Vec<Weak<Store>>,
}

impl<L: Fn() -> Result<Settings, ConfigError>> Reloader<L> {
    /// For a server with these settings.
    pub(super) fn new(load: L, settings: &Settings, state: &ServerState) -> Reloader<L> {
        Reloader {
            load,
            fixed: settings.fixed(),
            survey_every: settings.survey_every,
            claim: Claim::empty(&state.budget),
            removed: Vec::new(),
        }
    }

    /// Reads the configuration again. What is wrong with it is logged, and shown in the status; then nothing changes.
    pub(super) fn reload(&mut self, state: &ServerState, cores: &Cores) {
        let outcome = self.attempt(state, cores);
        let mut reloads = state.reloads();
        let (error, needs_restart) = match outcome {
            Ok(needs_restart) => {
                reloads.loaded += 1;
                tracing::info!("configuration read again");
                for option in &needs_restart {
                    tracing::warn!("needs a restart: {option}");
                }
                (None, needs_restart)
            }
            Err(refusal) => {
                reloads.refused += 1;
                tracing::error!("the new configuration is not used: {refusal}");
                (Some(refusal.to_string()), Vec::new())
            }
        };
        reloads.last = Some(LastReload {
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            error,
            needs_restart,
        });
    }

    /// Returns the options that need a restart.
    fn attempt(
        &mut self,
        state: &ServerState,
        cores: &Cores,
    ) -> Result<Vec<&'static str>, Refusal> {
        let settings = (self.load)()?;
        let mut needs_restart: Vec<&'static str> = settings
            .fixed()
            .into_iter()
            .filter(|new| !self.fixed.contains(new))
            .map(|(option, _)| option)
            .collect();
        let mut live = settings.reloadable();
        if !live.tahoe_nodes.is_empty() && !state.plan.declared.gateway {
            // A gateway has memory of its own in the plan.
            needs_restart.push("tahoe-node");
            Arc::make_mut(&mut live).tahoe_nodes.clear();
        }
        let (paths, nodes) = (&live.stores, &live.tahoe_nodes);
        if paths.is_empty() && nodes.is_empty() {
            return Err(Refusal::NoStores);
        }
        let keys = Keys::of(live.keys_file.as_deref(), live.require_signature)?;
        // A listener for TLS that is to come or to go needs a restart, and is told of.
        let tls = state
            .tls
            .as_ref()
            .filter(|_| !live.tls_certificates.is_empty());
        let renewed = tls
            .map(|acceptor| acceptor.read(&live.tls_certificates))
            .transpose()?;
        let before = state.live();
        let mut stores = state.stores();
        if (paths, nodes) != (&before.stores, &before.tahoe_nodes) {
            let paid = self.claim.bytes();
            // Those that go count as long as downloads read from them.
            let old = Arc::clone(&stores);
            let stays = |store: &Path| paths.iter().chain(nodes).any(|path| path == store);
            let going = old.all().filter(|store| !stays(store.path())).count();
            self.pay_for(paths.len() + nodes.len() + going, state)?;
            stores = old.replace(paths, nodes).inspect_err(|_| {
                // Less than now, or what was granted before.
                let _ = self.claim.resize(paid, Allowance::Half);
            })?;
            let gone = old
                .all()
                .filter(|store| !stores.all().any(|new| Arc::ptr_eq(new, store)));
            for store in gone {
                tracing::info!(
                    store = %store.path().display(),
                    "store removed: only downloads that have begun read from it"
                );
                self.removed.push(Arc::downgrade(store));
            }
            if let Some(every) = self.survey_every {
                // That of the stores before ends with them.
                let bounds = Bounds::new(&state.plan);
                if let Err(error) = state.survey.start(&stores, bounds, every) {
                    tracing::warn!(%error, "no survey of the new stores");
                }
            }
        }
        state
            .seats
            .limit_addresses(live.connections_per_address_max);
        state.keys.set(keys);
        if let (Some(acceptor), Some(renewed)) = (tls, renewed) {
            acceptor.renew(renewed);
        }
        state.rates.change(live.rates);
        logging::set_filter(live.log.as_deref());
        state.change(Arc::clone(&live), Arc::clone(&stores));
        for core in cores.order(Order::Reload { live, stores }) {
            tracing::error!(
                core,
                "the core does not listen, and goes on with the old settings"
            );
        }
        Ok(needs_restart)
    }

    /// Claims memory for more stores than were planned for. Removed ones count until nobody reads from them.
    fn pay_for(&mut self, stores: usize, state: &ServerState) -> Result<(), Refusal> {
        self.removed.retain(|store| store.strong_count() > 0);
        let declared = &state.plan.declared;
        let bytes = |stores| stores_bytes(stores) + admin_bytes(declared.cores, stores);
        let more = bytes(stores + self.removed.len()).saturating_sub(bytes(declared.stores));
        match self.claim.resize(more, Allowance::Half) {
            true => Ok(()),
            false => Err(Refusal::Memory(more >> 10)),
        }
    }
}

//! PKCS#11 modules, each loaded and initialised once per process (PKCS #11 2.40 §5.4) however many tokens are in use.
//!
//! Calls into a module hold its read lock. Loading it anew takes the write lock, so it waits for the calls that run,
//! and drops every connection of every backend: their handles mean nothing to the new instance, or something else.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::{Slot, TokenInfo};

use super::TokenDescription;
use super::failure::{Failure, call};
use super::token::Connection;
use crate::queue::lock;

/// Modules in use, by their real path, and by how many.
static MODULES: Mutex<BTreeMap<PathBuf, (Arc<Module>, usize)>> = Mutex::new(BTreeMap::new());

struct Module {
    path: PathBuf,
    /// `None` before it is loaded first, and while loading it anew fails.
    loaded: RwLock<Option<Loaded>>,
}

/// One initialised instance of a module.
pub(super) struct Loaded {
    /// Differs between instances, so that two who saw the same one fail load it anew once.
    pub(super) id: u64,
    context: Pkcs11,
    connections: Mutex<HashMap<Worker, Connection>>,
}

/// A backend and the number of its thread.
pub(super) type Worker = (u64, usize);

/// A share in a module; the last one to go finalizes it.
pub(super) struct ModuleUse(Arc<Module>);

impl ModuleUse {
    /// A share in a module that is loaded.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let module = Self::share(path)?;
        module.reload(None)?;
        Ok(module)
    }

    /// A share in a module that [`ModuleUse::reload`] may have to load yet, which can take its time.
    pub(super) fn share(path: &Path) -> Result<Self, Failure> {
        let path = std::fs::canonicalize(path).map_err(|e| {
            Failure::Refused(format!(
                "there is no PKCS#11 module at {}: {e}; install it or correct keys.module",
                path.display()
            ))
        })?;
        let mut modules = lock(&MODULES);
        if let Some((module, uses)) = modules.get_mut(&path) {
            *uses += 1;
            return Ok(Self(Arc::clone(module)));
        }
        let module = Arc::new(Module { path: path.clone(), loaded: RwLock::new(None) });
        modules.insert(path, (Arc::clone(&module), 1));
        Ok(Self(module))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Calls into the module, which is not finalized meanwhile; must not be nested.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Loaded) -> Result<T, Failure>) -> Result<T, Failure> {
        let loaded = self.0.loaded.read().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(loaded) => work(loaded),
            None => Err(Failure::Lost(format!("the module {} could not be loaded", self.path().display()))),
        }
    }

    /// Finalizes the module, unloads and loads it, unless that was done since the instance `seen`.
    ///
    /// Nothing less brings a token back that was away: a module goes on with what it knew of it.
    pub(super) fn reload(&self, seen: Option<u64>) -> Result<(), Failure> {
        let done = |loaded: &Option<Loaded>| loaded.as_ref().is_some_and(|now| Some(now.id) != seen);
        // Without waiting for the calls that run.
        if done(&self.0.loaded.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut loaded = self.0.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if done(&loaded) {
            return Ok(());
        }
        if let Some(old) = loaded.take() {
            old.finalize();
        }
        *loaded = Some(Loaded::new(self.path())?);
        Ok(())
    }
}

impl Drop for ModuleUse {
    fn drop(&mut self) {
        let mut modules = lock(&MODULES);
        if let Some((_, uses)) = modules.get_mut(self.path()) {
            *uses -= 1;
            if *uses == 0 {
                modules.remove(self.path());
                let last = self.0.loaded.write().unwrap_or_else(PoisonError::into_inner).take();
                // Under the registry's lock: nobody initialises the module between.
                if let Some(last) = last {
                    last.finalize();
                }
            }
        }
    }
}

impl Loaded {
    fn new(path: &Path) -> Result<Self, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shown = path.display();
        let context = Pkcs11::new(path).map_err(|e| {
            Failure::Refused(format!(
                "the PKCS#11 module {shown} can't be loaded: {e}; is keys.module a PKCS#11 library for this machine?"
            ))
        })?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Something else in this process uses the module; one initialisation serves all.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(Error::Pkcs11(code, function)) => {
                return Err(Failure::Lost(format!(
                    "{} by the module {shown}: check its configuration (SoftHSM: SOFTHSM2_CONF and the token \
                     directory, which must be readable by this user) and its service",
                    call(function, code)
                )));
            }
            Err(e) => {
                return Err(Failure::Refused(format!("the PKCS#11 module {shown} does not start: {e}")));
            }
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, context, connections: Mutex::default() })
    }

    fn finalize(self) {
        // Sessions go with the instance; closing them one by one could hang on a token that is away.
        drop(self.connections);
        if let Err(e) = self.context.finalize() {
            tracing::debug!(error = %e, "a PKCS#11 module did not finalize");
        }
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// The worker's connection to this instance, for the time of one operation.
    pub(super) fn take(&self, worker: Worker) -> Option<Connection> {
        lock(&self.connections).remove(&worker)
    }

    /// Keeps the worker's connection for its next operation.
    pub(super) fn keep(&self, worker: Worker, connection: Connection) {
        lock(&self.connections).insert(worker, connection);
    }

    /// The slot of the one initialised token with this label.
    pub(super) fn find_token(&self, module: &Path, label: &str) -> Result<(Slot, TokenInfo), Failure> {
        let tokens = self.initialized_tokens(label)?;
        let mut matching = tokens.iter().filter(|(_, info)| info.label() == label);
        match (matching.next(), matching.next()) {
            (Some((slot, info)), None) => Ok((*slot, info.clone())),
            (Some(_), Some(_)) => Err(Failure::Refused(format!(
                "several tokens labelled '{label}' are in {}: give them different labels",
                module.display()
            ))),
            (None, _) => {
                let names: Vec<_> = tokens.iter().map(|(_, info)| format!("'{}'", info.label())).collect();
                let there = if names.is_empty() {
                    "there is none at all (SoftHSM: check SOFTHSM2_CONF and the rights on the token directory)"
                        .to_owned()
                } else {
                    format!("tokens there: {}", names.join(", "))
                };
                Err(Failure::Lost(format!("no token labelled '{label}' in {}; {there}", module.display())))
            }
        }
    }

    pub(super) fn describe_tokens(&self) -> Result<Vec<TokenDescription>, Failure> {
        let tokens = self.initialized_tokens("")?;
        let describe = |(slot, info): (Slot, TokenInfo)| TokenDescription {
            slot: slot.id(),
            label: info.label().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            serial_number: info.serial_number().to_owned(),
        };
        Ok(tokens.into_iter().map(describe).collect())
    }

    fn initialized_tokens(&self, label: &str) -> Result<Vec<(Slot, TokenInfo)>, Failure> {
        let slots = self.context.get_slots_with_token().map_err(|e| Failure::new(label, &e))?;
        // A slot whose token can't be read now is passed over: it may be another one's.
        let tokens =
            slots.into_iter().filter_map(|slot| Some((slot, self.context.get_token_info(slot).ok()?)));
        Ok(tokens.filter(|(_, info)| info.token_initialized()).collect())
    }
}

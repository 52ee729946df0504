//! The signers that are in force, by number. Numbers only grow: what still arrives under an old one belongs to nobody.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{cluster::keeper::Authority, config::PodSigner, health::Token, names::DnsName};

/// All clones are one.
#[derive(Clone)]
pub(crate) struct Roster {
    members: Arc<RwLock<BTreeMap<usize, Member>>>,
    /// How often it was brought up to date.
    changes: watch::Sender<u64>,
}

/// One of them. Whoever works for it stops when it is taken out.
pub(crate) struct Member {
    pub(crate) policy: watch::Sender<Arc<PodSigner>>,
    pub(crate) authority: watch::Receiver<Authority>,
    /// Held until its requests have been listed once.
    pub(crate) listed: Option<Token>,
    _at_work: DropGuard,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self { members: Arc::default(), changes: watch::Sender::new(0) }
    }

    pub(crate) fn add(&self, number: usize, member: Member) {
        self.write().insert(number, member);
    }

    pub(crate) fn remove(&self, number: usize) {
        self.write().remove(&number);
    }

    /// Another policy for one that is there.
    pub(crate) fn change(&self, number: usize, policy: Arc<PodSigner>) {
        if let Some(member) = self.read().get(&number) {
            member.policy.send_replace(policy);
        }
    }

    /// Says that it is up to date.
    pub(crate) fn settled(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn knows(&self, number: usize) -> bool {
        self.read().contains_key(&number)
    }

    pub(crate) fn policy(&self, number: usize) -> Option<Arc<PodSigner>> {
        self.read().get(&number).map(|member| Arc::clone(&member.policy.borrow()))
    }

    pub(crate) fn authority(&self, number: usize) -> Authority {
        self.read().get(&number).map_or_else(Authority::unknown, |member| member.authority.borrow().clone())
    }

    pub(crate) fn authorities(&self) -> Vec<watch::Receiver<Authority>> {
        self.read().values().map(|member| member.authority.clone()).collect()
    }

    /// All policies, with their numbers.
    pub(crate) fn policies(&self) -> Vec<(usize, Arc<PodSigner>)> {
        self.read().iter().map(|(number, member)| (*number, Arc::clone(&member.policy.borrow()))).collect()
    }

    /// The CA of the PodSigner of this name.
    pub(crate) fn authority_of(&self, name: &DnsName) -> Option<Authority> {
        let members = self.read();
        let member = members.values().find(|member| member.policy.borrow().name == *name)?;
        Some(member.authority.borrow().clone())
    }

    /// Its requests have been listed.
    pub(crate) fn listed(&self, number: usize) {
        if let Some(member) = self.write().get_mut(&number) {
            drop(member.listed.take());
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<usize, Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<usize, Member>> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// And the word to stop for whoever works for it.
    pub(crate) fn new(
        policy: watch::Sender<Arc<PodSigner>>,
        authority: watch::Receiver<Authority>,
        listed: Option<Token>,
    ) -> (Self, CancellationToken) {
        let stop = CancellationToken::new();
        let _at_work = stop.clone().drop_guard();
        (Self { policy, authority, listed, _at_work }, stop)
    }
}

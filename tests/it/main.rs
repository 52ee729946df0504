//! The stories: what must be true of the signer on devcluster and on real API servers. One file per subject; each story has a
//! namespace and a signer name of its own, and says what holds before and after.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    reason = "a story that cannot go on says so by a panic, and a long one tells its figures"
)]

mod administrator;
mod attack;
mod bind;
mod brought;
mod ca;
mod cert_manager;
mod doctor;
mod down;
mod dumps;
mod explain;
mod fleet;
mod forge;
mod guard;
mod hand;
mod hold;
mod hostile;
mod issue;
mod killed;
mod lag;
mod names;
mod onhold;
mod podsigner;
mod profiles;
mod record;
mod replicas;
mod rights;
mod rollback;
mod rotate;
mod trust;
mod untouched;
mod upgrade;
mod verdicts;

//! `kubectl podmint ca restore`: puts a backup in place of what is there, after holding one against the other. What would go back is
//! refused, and so is a backup without the key of the root that signs.

use k8s_openapi::api::core::v1::Secret;

use super::{
    CaError, Desk, Outcome,
    backup::{Backup, Keys},
    data, failed,
};
use crate::{
    authority::{Generation, LoadError, Roots, SecretData, Write, fingerprints},
    cluster::{
        bundle::{self, Bundle},
        secrets::Written,
    },
    kubectl::Installation,
    names::{DnsName, Sha256},
};

/// How sure its user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sure {
    /// It is to be done, and not only shown.
    pub confirmed: bool,
    /// It may go back to an older generation.
    pub accepts_older: bool,
}

/// Restores the CA that this file holds.
///
/// # Errors
/// When the file is no backup, or one that must not be restored here, or when a right is lacking.
pub async fn restore(
    config: kube::Config,
    installation: Installation,
    file: &[u8],
    sure: Sure,
) -> Result<Outcome, CaError> {
    let backup = Backup::read(file)?;
    let name = backup.pod_signer.clone();
    Desk::open(config, installation, &name).await?.restore(&backup, sure).await
}

/// What is in the cluster.
struct Present {
    signing: Option<Secret>,
    root: Option<Secret>,
    bundle: Option<Bundle>,
}

impl Desk {
    pub(super) async fn restore(&self, backup: &Backup, sure: Sure) -> Result<Outcome, CaError> {
        let signer = self.signer()?;
        if backup.signer_name != signer.signer_name.as_str() {
            return Err(CaError::Unfit(format!(
                "this is a backup of the CA of {}, and PodSigner {} is for {}",
                backup.signer_name,
                self.name(),
                signer.signer_name
            )));
        }
        let keys = backup.keys().map_err(|why| CaError::Unfit(format!("this backup cannot be used: {why}")))?;
        let [signing, root] = signer.authority.names();
        let present = Present {
            bundle: self.bundle().await?,
            signing: self.secret(signing).await?,
            root: self.secret(root).await?,
        };
        let seen = Seen::of(&present);
        let change = judge(&keys, &seen, sure.accepts_older).map_err(CaError::Unfit)?;
        let mut text = format!("Backup of {}: {}\nIn the cluster: {}\n", backup.taken, keys.said(), seen.said());
        let Change::Replace { withdraws } = change else {
            text.push_str("There is nothing to restore.\n");
            return Ok(Outcome { text, is_done: true });
        };
        for root in &withdraws {
            text.push_str(&format!("The root {root} is withdrawn: certificates of it are refused from then on.\n"));
        }
        if !sure.confirmed {
            text.push_str("Nothing was changed. To restore it: the same command with --confirm\n");
            return Ok(Outcome { text, is_done: false });
        }
        // The signer holds while these do not belong together, and goes on by itself when they do.
        self.put(signing, &backup.signing, present.signing.as_ref()).await?;
        self.put(root, &backup.root, present.root.as_ref()).await?;
        self.publish(&keys, present.bundle.as_ref()).await?;
        text.push_str(&format!(
            "Restored. Replicas that went on with another CA keep it in memory: kubectl --namespace {} rollout restart deploy/podmint-signer\n",
            self.installation.namespace
        ));
        Ok(Outcome { text, is_done: true })
    }

    async fn put(&self, name: &DnsName, wanted: &SecretData, before: Option<&Secret>) -> Result<(), CaError> {
        if before.is_some_and(|before| data(before) == *wanted) {
            return Ok(());
        }
        let write = if before.is_some() { Write::Replace } else { Write::Create };
        let written = self.secrets().write(name, wanted.clone(), write, before).await;
        let what = format!("write the Secret {name} of {}", self.installation.namespace);
        match written.map_err(|error| failed(&what, &error))? {
            Written::Done => Ok(()),
            Written::Beaten => Err(CaError::Unfit(format!(
                "somebody else, perhaps the signer, wrote the Secret {name} meanwhile: look at what is there with the same command, and \
                 try again"
            ))),
        }
    }

    /// The roots of the backup, with the mark of the one that signs: a newer or older mark would make the signer hold.
    async fn publish(&self, keys: &Keys, before: Option<&Bundle>) -> Result<(), CaError> {
        let (text, signs) = (keys.generation.trust_bundle(), keys.generation.root_fingerprint());
        let is_there =
            |bundle: &Bundle| bundle.marked() == Some(signs) && fingerprints(bundle.text()) == fingerprints(&text);
        let Some(version) = self.served.bundles.filter(|_| !before.is_some_and(is_there)) else { return Ok(()) };
        let published = bundle::publish(&self.calls, version, self.signer()?, before, &text, signs).await;
        match published {
            // The signer has repaired it meanwhile, from the very Secrets that were just written.
            Err(error) if error.is_conflict() => Ok(()),
            other => other.map_err(|error| failed("write the trust bundle", &error)),
        }
    }
}

/// The same, read.
struct Seen {
    signing: Result<Generation, String>,
    root: Result<Roots, String>,
    trusted: Vec<Sha256>,
    marked: Option<Sha256>,
}

fn absent<T>() -> Result<T, String> {
    Err("there is no such Secret".to_owned())
}

enum Change {
    Nothing,
    Replace { withdraws: Vec<Sha256> },
}

impl Seen {
    fn of(present: &Present) -> Self {
        let words = |error: LoadError| error.to_string();
        Self {
            signing: present.signing.as_ref().map_or_else(absent, |it| Generation::load(&data(it)).map_err(words)),
            root: present.root.as_ref().map_or_else(absent, |it| Roots::load(&data(it)).map_err(words)),
            trusted: present.bundle.as_ref().map(|bundle| fingerprints(bundle.text())).unwrap_or_default(),
            marked: present.bundle.as_ref().and_then(Bundle::marked),
        }
    }

    fn said(&self) -> String {
        let signing = match &self.signing {
            Ok(generation) => {
                format!("generation {} under the root {}", generation.number(), generation.root_fingerprint())
            }
            Err(why) => format!("no issuing CA ({why})"),
        };
        let root = match &self.root {
            Ok(roots) => format!("the key of the root {}", roots.held().current.fingerprint),
            Err(why) => format!("no root's key ({why})"),
        };
        let trusted: Vec<String> = self.trusted.iter().map(ToString::to_string).collect();
        let trusted = if trusted.is_empty() {
            "nothing is published".to_owned()
        } else {
            format!("published: {}", trusted.join(", "))
        };
        format!("{signing}; {root}; {trusted}")
    }
}

/// Whether this backup may take the place of what is there.
fn judge(keys: &Keys, seen: &Seen, accepts_older: bool) -> Result<Change, String> {
    let Keys { generation, roots } = keys;
    let number = generation.number();
    let now = seen.signing.as_ref().ok();
    if let Some(now) = now.filter(|now| now.number() > number && !accepts_older) {
        return Err(format!(
            "the cluster has generation {}, and this backup goes back to {number}: take a newer one. If it must be this one: \
             --accept-older",
            now.number()
        ));
    }
    let knows = |root: &Sha256| generation.signing().knows(*root) || roots.find(*root).is_some();
    let signs = seen.marked.or(now.map(Generation::root_fingerprint)).or(seen.trusted.first().copied());
    // What is there may be of before the backup, as after a restore of etcd: then the backup's is the newer root.
    let went_on = |now: &&Generation| {
        now.signing().plan.rotation.is_some_and(|it| it.next().is_none() && it.other() == generation.root_fingerprint())
    };
    let is_newer = now.filter(|now| !went_on(now)).is_some_and(|now| now.number() < number);
    if let Some(root) = signs.filter(|root| !knows(root) && !is_newer && !accepts_older) {
        return Err(format!(
            "the root {root} signs, and its key is not in this backup: take a newer one. If there is none, and this is a new cluster: --accept-older; \
             in the old one: `kubectl podmint ca reset`"
        ));
    }
    let is_same =
        now.is_some_and(|now| now.fingerprint() == generation.fingerprint() && now.signing() == generation.signing());
    let is_same_root = seen.root.as_ref().is_ok_and(|now| now.held() == roots.held());
    let published = fingerprints(&generation.trust_bundle());
    if is_same && is_same_root && seen.marked == Some(generation.root_fingerprint()) && seen.trusted == published {
        return Ok(Change::Nothing);
    }
    Ok(Change::Replace { withdraws: seen.trusted.iter().copied().filter(|root| !published.contains(root)).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::{Makings, Plan, Rotation, make},
        pipeline::honest::{NOW, domains, makings, signer},
    };

    fn roots() -> Roots {
        let (signer, domains) = (signer(), domains());
        Roots::first(make::root(&makings(&signer, &domains, NOW)).unwrap())
    }

    fn below(roots: &Roots, plan: Plan, trusted: &str) -> Generation {
        let (signer, domains) = (signer(), domains());
        let below = Some(roots.held().current.fingerprint);
        let put =
            crate::authority::Put { name: crate::authority::state::Name::Issue, plan, below, write: Write::Create };
        make::signing(&put, None, Some(roots), &Makings { trusted, ..makings(&signer, &domains, NOW) }).unwrap()
    }

    fn seen(signing: Option<Generation>, marked: Option<Sha256>) -> Seen {
        let absent = || "there is no such Secret".to_owned();
        Seen { signing: signing.ok_or_else(absent), root: Err(absent()), trusted: marked.into_iter().collect(), marked }
    }

    /// A cluster that holds just this.
    fn sound(keys: &Keys) -> Seen {
        let same = Generation::load(&keys.generation.data().unwrap()).unwrap();
        let root = Ok(Roots::load(&keys.roots.data()).unwrap());
        Seen { root, ..seen(Some(same), Some(keys.generation.root_fingerprint())) }
    }

    #[track_caller]
    fn refused(keys: &Keys, seen: &Seen, words: &str) {
        match judge(keys, seen, false) {
            Err(why) => assert!(why.contains(words), "{why}"),
            Ok(_) => panic!("it is not refused: {words}"),
        }
        assert!(judge(keys, seen, true).is_ok(), "whoever insists may");
    }

    #[test]
    fn what_goes_back_and_the_wrong_key_are_refused() {
        let (old, new) = (roots(), roots());
        let (old_id, new_id) = (old.held().current.fingerprint, new.held().current.fingerprint);
        let plan = |number| Plan::new(number, 86_400);
        let published = below(&old, plan(1), "").trust_bundle();
        let keys = Keys { generation: below(&old, plan(3), ""), roots: old };
        assert!(judge(&keys, &seen(None, None), false).is_ok(), "into an empty cluster");
        assert!(judge(&keys, &seen(None, Some(old_id)), false).is_ok(), "both Secrets are gone");
        refused(&keys, &seen(Some(below(&keys.roots, plan(4), "")), Some(old_id)), "goes back to 3");
        refused(&keys, &seen(None, Some(new_id)), "its key is not in this backup");
        refused(&keys, &seen(Some(below(&new, plan(3), "")), Some(new_id)), "its key is not in this backup");

        // etcd is of before the rotation, and the backup of after it.
        let restored = judge(&keys, &seen(Some(below(&new, plan(2), "")), Some(new_id)), false);
        let Ok(Change::Replace { withdraws }) = restored else { panic!("the backup is the newer one") };
        assert_eq!(withdraws, [new_id]);
        // The same numbers after a reset: this very root was given up for the one that is there.
        let rotation = Some(Rotation::Sign { previous: old_id, longest: 86_400 });
        let went_on = below(&new, Plan { rotation, ..plan(1) }, &published);
        refused(&keys, &seen(Some(went_on), Some(new_id)), "its key is not in this backup");
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let roots = roots();
        let generation = below(&roots, Plan::new(3, 86_400), "");
        let keys = Keys { generation, roots };
        assert!(matches!(judge(&keys, &sound(&keys), false), Ok(Change::Nothing)));
        let other = below(&keys.roots, Plan::new(3, 86_400), "");
        for (part, now) in [
            ("mark", Seen { marked: None, ..sound(&keys) }),
            ("bundle", Seen { trusted: Vec::new(), ..sound(&keys) }),
            ("root", Seen { root: Err(String::new()), ..sound(&keys) }),
            ("issuing CA", Seen { signing: Ok(other), ..sound(&keys) }),
        ] {
            assert!(matches!(judge(&keys, &now, false), Ok(Change::Replace { .. })), "the {part} is part of it");
        }
    }
}

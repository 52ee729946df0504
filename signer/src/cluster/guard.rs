//! The admission guard, as the API server has it now beside the text that this binary was built with
//! (`deploy/kustomize/admission-guard.yaml`). Read only: who can make a policy can unmake it, and the signer can do neither.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::calls::{CallError, Calls};
use crate::{
    chain::Chain,
    health::Token,
    metrics::{Metrics, StateLabels},
    names::DnsName,
    pace::Pace,
};

/// Whether the guard has to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nothing new is signed while it is missing or not bound.
    #[default]
    Required,
    /// It is not wanted: nobody but kubelets can make requests here, or nobody minds.
    Off,
}

/// What the API server has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardState {
    /// Not read yet, or not to be read any more.
    Unknown,
    /// There and bound, with the very rules we know.
    InForce,
    /// There and bound, with other rules: those of another version, as a rule. Or the second policy is not there.
    OtherText,
    /// The policy on who may ask is not there.
    Missing,
    /// It is there and nothing makes it count for every request.
    Unbound,
    /// Told not to look.
    Off,
}

impl GuardState {
    /// Whether requests may be answered with a certificate.
    pub(crate) const fn lets_sign(self) -> bool {
        match self {
            Self::InForce | Self::OtherText | Self::Off => true,
            Self::Unknown | Self::Missing | Self::Unbound => false,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::InForce => "in_force",
            Self::OtherText => "other_text",
            Self::Missing => "missing",
            Self::Unbound => "unbound",
            Self::Off => "off",
        }
    }

    const ALL: [Self; 6] = [Self::Unknown, Self::InForce, Self::OtherText, Self::Missing, Self::Unbound, Self::Off];
}

/// Looks at the guard now and then.
pub(crate) struct Lookout {
    pub(crate) calls: Calls,
    pub(crate) guard: Guard,
    pub(crate) domain: DnsName,
    pub(crate) state: watch::Sender<GuardState>,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    /// Held until the first look.
    pub(crate) token: Option<Token>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    #[error("could not read the admission guard")]
    Read(#[source] CallError),
    #[error("could not ask the API server who we are")]
    WhoAmI(#[source] CallError),
    #[error("the admission guard built into this binary is broken")]
    BuiltIn(#[source] serde_saphyr::Error),
}

impl GuardError {
    pub(crate) fn is_forbidden(&self) -> bool {
        match self {
            Self::Read(error) | Self::WhoAmI(error) => error.is_forbidden(),
            Self::BuiltIn(_) => false,
        }
    }
}

impl Lookout {
    pub(crate) async fn run(mut self) {
        let mut token = self.token.take();
        if self.guard == Guard::Off {
            tracing::warn!(
                "the admission guard is off: whoever may create certificate requests gets certificates for any pod"
            );
            self.tell(GuardState::Off, None);
            return;
        }
        let mut username = None;
        let mut refused: Option<Instant> = None;
        loop {
            let state = match look(&self.calls, &self.domain, &mut username).await {
                Ok(state) => {
                    self.tell(state, username.as_deref());
                    drop(token.take());
                    refused = None;
                    state
                }
                Err(error) => {
                    refused = error.is_forbidden().then(|| refused.unwrap_or_else(Instant::now));
                    // What was in force stays so: an API server that cannot be asked cannot let forged requests in either. One that
                    // refuses can, and does so to everybody only for a moment after its start.
                    let lasts = refused.is_some_and(|since| since.elapsed() >= self.pace.of(REFUSED));
                    let state = if lasts { GuardState::Unknown } else { *self.state.borrow() };
                    tracing::warn!(error = %Chain(&error), state = state.label(), "cannot see the admission guard");
                    self.tell(state, username.as_deref());
                    state
                }
            };
            self.pace.pause(if state == GuardState::InForce { CALM } else { UNEASY }).await;
        }
    }

    fn tell(&self, state: GuardState, username: Option<&str>) {
        for known in GuardState::ALL {
            self.metrics.guard.get_or_create(&StateLabels { state: known.label() }).set(i64::from(known == state));
        }
        if !self.state.send_if_modified(|before| std::mem::replace(before, state) != state) {
            return;
        }
        let mend = mend(&self.domain, username);
        match state {
            GuardState::InForce | GuardState::Off => tracing::info!(state = state.label(), "the admission guard"),
            GuardState::OtherText => tracing::error!(
                "the admission guard is not the one this version was built with: run its `{mend}` (signing goes on)"
            ),
            GuardState::Missing | GuardState::Unbound => tracing::error!(
                state = state.label(),
                "the admission guard is not in force and requests are held: run `{mend}`, or start with --admission-guard=off"
            ),
            GuardState::Unknown => tracing::error!(
                "the signer may not read the admission guard any more and requests are held: give it back the right to `get` the policies \
                 and their bindings, or start with --admission-guard=off"
            ),
        }
    }
}

/// The command that applies the guard for this domain and a signer of this user name.
fn mend(domain: &DnsName, username: Option<&str>) -> String {
    let namespace = username.and_then(|name| name.strip_prefix("system:serviceaccount:")?.split_once(':'));
    let namespace = namespace.map(|(namespace, _)| format!(" --namespace {namespace}")).unwrap_or_default();
    format!("kubectl podmint guard --signer-domain {domain}{namespace} | kubectl apply -f -")
}

async fn look(calls: &Calls, domain: &DnsName, username: &mut Option<String>) -> Result<GuardState, GuardError> {
    let username = match username {
        Some(known) => known,
        None => username.insert(who_am_i(calls).await.map_err(GuardError::WhoAmI)?),
    };
    inspect(calls, domain, username).await
}

/// What the API server has of the guard for this domain and a signer of this user name.
pub(crate) async fn inspect(calls: &Calls, domain: &DnsName, username: &str) -> Result<GuardState, GuardError> {
    let expected = Shown::expected(domain.as_str(), username).map_err(GuardError::BuiltIn)?;
    let shown = Shown::read(calls).await.map_err(GuardError::Read)?;
    Ok(judge(&shown, &expected))
}

/// The guard as it is to be applied, for this domain and a signer of this user name.
pub(crate) fn manifest(domain: &str, username: &str) -> String {
    TEXT.replace("'podmint.dev/'", &format!("'{domain}/'")).replace(USERNAME, username)
}

async fn who_am_i(calls: &Calls) -> Result<String, CallError> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer: Value = calls.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    Ok(answer.pointer("/status/userInfo/username").and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn judge(shown: &Shown, expected: &Shown) -> GuardState {
    let Some(requests) = &shown.requests else { return GuardState::Missing };
    if !shown.requests_binding.as_ref().is_some_and(|binding| binding.binds(REQUESTS)) {
        return GuardState::Unbound;
    }
    let answers_bound = shown.answers_binding.as_ref().is_some_and(|binding| binding.binds(ANSWERS));
    // The second policy keeps others from answering. Holding would not stop them, so its want is an alarm and no more.
    if Some(requests) == expected.requests.as_ref() && shown.answers == expected.answers && answers_bound {
        GuardState::InForce
    } else {
        GuardState::OtherText
    }
}

/// Both policies with their bindings: those of the API server, or ours.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    requests: Option<Policy>,
    requests_binding: Option<Binding>,
    answers: Option<Policy>,
    answers_binding: Option<Binding>,
}

impl Shown {
    async fn read(calls: &Calls) -> Result<Self, CallError> {
        let (requests, requests_binding, answers, answers_binding) = tokio::try_join!(
            read(calls, POLICIES, REQUESTS),
            read(calls, BINDINGS, REQUESTS),
            read(calls, POLICIES, ANSWERS),
            read(calls, BINDINGS, ANSWERS),
        )?;
        Ok(Self { requests, requests_binding, answers, answers_binding })
    }

    /// The built-in text, for this signer domain and this user name.
    fn expected(domain: &str, username: &str) -> Result<Self, serde_saphyr::Error> {
        let mut shown = Self::default();
        for document in serde_saphyr::from_multiple::<Document>(&manifest(domain, username))? {
            match (document.kind.as_str(), document.metadata.name.as_str()) {
                ("ValidatingAdmissionPolicy", REQUESTS) => shown.requests = part(document.spec),
                ("ValidatingAdmissionPolicy", ANSWERS) => shown.answers = part(document.spec),
                ("ValidatingAdmissionPolicyBinding", REQUESTS) => shown.requests_binding = part(document.spec),
                ("ValidatingAdmissionPolicyBinding", ANSWERS) => shown.answers_binding = part(document.spec),
                _ => {}
            }
        }
        Ok(shown)
    }
}

async fn read<T: DeserializeOwned>(calls: &Calls, kind: &str, name: &str) -> Result<Option<T>, CallError> {
    match calls.get::<Document>(&format!("/apis/admissionregistration.k8s.io/v1/{kind}/{name}")).await {
        Ok(document) => Ok(part(document.spec)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A spec that we cannot read is none that we know.
fn part<T: DeserializeOwned>(spec: Value) -> Option<T> {
    serde_json::from_value(spec).ok()
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    metadata: Name,
    #[serde(default)]
    spec: Value,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
}

/// What a policy does. Messages and reasons are left out: they refuse nobody. What the API server fills in is filled in here.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    #[serde(default = "fail")]
    failure_policy: String,
    #[serde(default)]
    param_kind: Option<Value>,
    match_constraints: Matching,
    #[serde(default)]
    match_conditions: Vec<Condition>,
    #[serde(default)]
    validations: Vec<Validation>,
    #[serde(default)]
    variables: Vec<Value>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matching {
    #[serde(default = "equivalent")]
    match_policy: String,
    #[serde(default)]
    resource_rules: Vec<Rule>,
    #[serde(default)]
    exclude_resource_rules: Vec<Value>,
    #[serde(default)]
    namespace_selector: Selector,
    #[serde(default)]
    object_selector: Selector,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    api_versions: Vec<String>,
    #[serde(default)]
    operations: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    #[serde(default = "any")]
    scope: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: serde_json::Map<String, Value>,
    #[serde(default)]
    match_expressions: Vec<Value>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Condition {
    expression: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Validation {
    expression: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    policy_name: String,
    #[serde(default)]
    validation_actions: Vec<String>,
    #[serde(default)]
    param_ref: Option<Value>,
    #[serde(default)]
    match_resources: Option<Matching>,
}

impl Binding {
    /// Whether it refuses whatever the policy refuses, in every namespace.
    fn binds(&self, policy: &str) -> bool {
        self.policy_name == policy
            && self.validation_actions.iter().any(|action| action == "Deny")
            && self.param_ref.is_none()
            && self.match_resources.as_ref().is_none_or(Matching::is_everything)
    }
}

impl Matching {
    fn is_everything(&self) -> bool {
        let Self { match_policy: _, resource_rules, exclude_resource_rules, namespace_selector, object_selector } =
            self;
        resource_rules.is_empty()
            && exclude_resource_rules.is_empty()
            && *namespace_selector == Selector::default()
            && *object_selector == Selector::default()
    }
}

fn fail() -> String {
    "Fail".to_owned()
}

fn equivalent() -> String {
    "Equivalent".to_owned()
}

fn any() -> String {
    "*".to_owned()
}

const TEXT: &str = include_str!("../../../deploy/kustomize/admission-guard.yaml");
const USERNAME: &str = "system:serviceaccount:podmint-system:podmint-signer";
/// The policy on who may ask, and its binding.
pub(crate) const REQUESTS: &str = "podmint-requests";
const ANSWERS: &str = "podmint-answers";
const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";
/// How long a removed guard may go unseen.
const CALM: Duration = Duration::from_secs(15);
/// For how long an API server that has just started may refuse everything, until it has read its Roles.
const REFUSED: Duration = Duration::from_secs(30);
/// How long a repaired one may.
const UNEASY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::{Fake, Instead, refusal};

    /// Answers so whatever is asked, as long as it is told to.
    fn answers(fake: &Fake, refused: Option<u16>) {
        fake.instead(move |_, path, _| match refused {
            Some(code) => Some(Instead::Json(code, refusal(code, "x", "x").1)),
            None => path.contains("selfsubjectreviews").then(|| {
                Instead::Json(201, json!({"status": {"userInfo": {"username": "system:serviceaccount:mint:signer"}}}))
            }),
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_may_not_be_read_any_more_is_not_in_force_for_ever() {
        let fake = Fake::new();
        answers(&fake, None);
        let text = manifest("mint.example.org", "system:serviceaccount:mint:signer");
        for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
            let kind = format!("{}s", document["kind"].as_str().unwrap().to_lowercase()).replace("ys", "ies");
            let name = document["metadata"]["name"].as_str().unwrap();
            fake.put(&format!("/apis/admissionregistration.k8s.io/v1/{kind}/{name}"), document.clone());
        }
        let state = watch::Sender::new(GuardState::Unknown);
        let seen = state.subscribe();
        let is = |expected| assert_eq!(*seen.borrow(), expected);
        let lookout = Lookout {
            calls: fake.calls(),
            guard: Guard::Required,
            domain: DnsName::parse("mint.example.org").unwrap(),
            state,
            metrics: Metrics::new(),
            pace: Pace::real(),
            token: None,
        };
        let seconds = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let running = tokio::spawn(lookout.run());
        seconds(1).await;
        is(GuardState::InForce);
        // One that is away says nothing, however long; one that has just started refuses for a moment, now and then.
        for (code, lasts) in [(500, 600), (403, 25), (403, 25)] {
            answers(&fake, Some(code));
            seconds(lasts).await;
            is(GuardState::InForce);
            answers(&fake, None);
            seconds(20).await;
            is(GuardState::InForce);
        }
        answers(&fake, Some(403));
        seconds(60).await;
        is(GuardState::Unknown);
        answers(&fake, None);
        seconds(10).await;
        is(GuardState::InForce);
        running.abort();
    }

    fn ours() -> Shown {
        Shown::expected("mint.example.org", "system:serviceaccount:mint:signer").unwrap()
    }

    /// The built-in text as an API server shows it: with everything filled in that it fills in.
    fn served(change: impl FnOnce(&mut Shown)) -> GuardState {
        let mut shown = ours();
        let filled = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
                "resourceRules": [{
                    "apiGroups": ["certificates.k8s.io"], "apiVersions": ["*"], "operations": ["CREATE"],
                    "resources": ["podcertificaterequests"], "scope": "*",
                }],
            },
            "matchConditions": [{
                "name": "our-signers", "expression": "object.spec.signerName.startsWith('mint.example.org/')",
            }],
            "validations": [
                {
                    "expression": "request.userInfo.username == 'system:node:' + object.spec.nodeName",
                    "message": "in other words", "reason": "Forbidden",
                },
                {"expression": "'system:nodes' in request.userInfo.groups"},
            ],
        });
        shown.requests = part(filled);
        change(&mut shown);
        judge(&shown, &ours())
    }

    fn requests(shown: &mut Shown) -> &mut Policy {
        shown.requests.as_mut().unwrap()
    }

    fn binding(shown: &mut Shown) -> &mut Binding {
        shown.requests_binding.as_mut().unwrap()
    }

    #[test]
    fn the_built_in_text_has_all_four_parts_for_any_domain_and_user() {
        let Shown {
            requests: Some(requests),
            requests_binding: Some(_),
            answers: Some(answers),
            answers_binding: Some(_),
        } = ours()
        else {
            panic!("a part is missing")
        };
        assert_eq!(requests.match_conditions[0].expression, "object.spec.signerName.startsWith('mint.example.org/')");
        assert_eq!(answers.match_conditions[0].expression, "oldObject.spec.signerName.startsWith('mint.example.org/')");
        assert_eq!(
            answers.validations[0].expression,
            "request.userInfo.username == 'system:serviceaccount:mint:signer'"
        );
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_difference() {
        assert_eq!(served(|_| {}), GuardState::InForce);
    }

    #[test]
    fn the_command_that_mends_is_this_installations() {
        let domain = DnsName::parse("mint.example.org").unwrap();
        assert_eq!(
            mend(&domain, Some("system:serviceaccount:mint:podmint-signer")),
            "kubectl podmint guard --signer-domain mint.example.org --namespace mint | kubectl apply -f -"
        );
        assert_eq!(
            mend(&domain, Some("admin")),
            "kubectl podmint guard --signer-domain mint.example.org | kubectl apply -f -"
        );
    }

    #[test]
    fn without_policy_or_binding_nothing_is_signed() {
        let missing = served(|shown| shown.requests = None);
        assert!(missing == GuardState::Missing && !missing.lets_sign());
        let unbound = served(|shown| shown.requests_binding = None);
        assert!(unbound == GuardState::Unbound && !unbound.lets_sign());
        assert!(!GuardState::Unknown.lets_sign());
    }

    #[test]
    fn a_binding_that_does_not_refuse_everywhere_is_none() {
        let narrow = json!({"namespaceSelector": {"matchLabels": {"guarded": "yes"}}});
        let wide = json!({"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}});
        assert_eq!(served(|shown| binding(shown).match_resources = part(wide)), GuardState::InForce);
        assert_eq!(served(|shown| binding(shown).match_resources = part(narrow)), GuardState::Unbound);
        assert_eq!(served(|shown| binding(shown).validation_actions = vec!["Audit".to_owned()]), GuardState::Unbound);
        assert_eq!(served(|shown| binding(shown).policy_name = "another".to_owned()), GuardState::Unbound);
        assert_eq!(served(|shown| binding(shown).param_ref = Some(json!({}))), GuardState::Unbound);
    }

    #[test]
    fn other_rules_are_an_alarm_and_signing_goes_on() {
        let others: [fn(&mut Shown); 7] = [
            |shown| requests(shown).failure_policy = "Ignore".to_owned(),
            |shown| requests(shown).validations.truncate(1),
            |shown| requests(shown).match_conditions.clear(),
            |shown| requests(shown).match_constraints.exclude_resource_rules.push(json!({})),
            |shown| requests(shown).match_constraints.resource_rules[0].api_versions = vec!["v1".to_owned()],
            |shown| shown.answers = None,
            |shown| shown.answers_binding = None,
        ];
        for change in others {
            let state = served(change);
            assert!(state == GuardState::OtherText && state.lets_sign());
        }
    }
}

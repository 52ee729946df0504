//! etcd and a real kube-apiserver on loopback, with keys and tokens made at run time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::call;
use crate::kept::{Kept, Scratch};
use crate::until::until;
use crate::{Who, assets, ports};

/// How a server is started.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// One of [`assets::VERSIONS`].
    pub version: &'static str,
    /// Whether the admission plugin checks what node identities ask for. Off, nothing but the signer checks.
    pub node_restriction: bool,
    /// Whether every status write is recorded, for [`Kubernetes::status_writes`]. The benchmark leaves it out.
    pub recorded: bool,
    /// Whether pod certificates and trust bundles are switched on. Off, their API is not served.
    pub pod_certificates: bool,
}

impl Settings {
    /// This version, nothing switched on that a story does not ask for.
    pub fn of(version: &'static str) -> Self {
        Self { version, node_restriction: false, recorded: true, pod_certificates: true }
    }
}

/// One status write, as the API server itself recorded it.
#[derive(Debug, Clone)]
pub struct StatusWrite {
    /// The request's namespace and name.
    pub request: String,
    /// The HTTP status code it got.
    pub code: u16,
    /// What the API server said when it refused.
    pub message: String,
}

/// A control plane of two processes.
#[derive(Debug)]
pub struct Kubernetes {
    settings: Settings,
    etcd_ports: [u16; 2],
    port: u16,
    authority: String,
    token: String,
    // In this order: first the API server ends, then etcd, then the folder is removed.
    api: Mutex<Option<Kept>>,
    /// What [`Kubernetes::restart_with`] has added.
    added: Mutex<Vec<String>>,
    etcd: Mutex<Option<Kept>>,
    scratch: Scratch,
}

impl Kubernetes {
    /// Starts both and waits until the API server is ready.
    pub async fn start(settings: Settings) -> Self {
        let scratch = Scratch::new();
        let authority = write_credentials(&scratch);
        let token = random_word();
        scratch.write("tokens.csv", &format!("{token},{},admin-uid,\"system:masters\"\n", Who::Admin.user_name()));
        scratch.write("audit-policy.yaml", AUDIT_POLICY);
        let [etcd_port, peer_port, port] = [(); 3].map(|()| ports::free());
        let etcd_ports = [etcd_port, peer_port];
        let etcd = start_etcd(&scratch, settings.version, etcd_ports);
        let server = Self {
            settings,
            etcd_ports,
            port,
            authority,
            token,
            api: Mutex::new(None),
            added: Mutex::default(),
            etcd: Mutex::new(Some(etcd)),
            scratch,
        };
        server.start_api(settings.version).await;
        server
    }

    /// Starts the API server of any version on the same etcd, port and keys, after [`Kubernetes::stop_api`].
    pub async fn start_api(&self, version: &str) {
        let program = assets::kubernetes(version).join("kube-apiserver");
        let process = Kept::start(&program, &self.arguments(version), &self.scratch.join("kube-apiserver.log"));
        *self.api() = Some(process);
        let admin = self.client(&Who::Admin).await;
        until(format!("kube-apiserver {version} is ready"), async || {
            if let Some(process) = self.api().as_ref() {
                assert!(process.is_alive(), "kube-apiserver {version} ended:\n{}", process.last_words());
            }
            call::text(&admin, "/readyz").await.ok()
        })
        .await;
    }

    /// Ends the API server as a power cut does.
    pub fn stop_api(&self) {
        if let Some(process) = self.api().take() {
            process.kill();
        }
    }

    /// Keeps what etcd holds now. Both processes are away meanwhile.
    pub async fn snapshot(&self) {
        self.replace_etcd("etcd", "etcd-snapshot").await;
    }

    /// etcd holds again what it held at the [`Kubernetes::snapshot`], and knows of nothing since.
    pub async fn restore(&self) {
        self.replace_etcd("etcd-snapshot", "etcd").await;
    }

    async fn replace_etcd(&self, from: &str, to: &str) {
        self.stop_api();
        if let Some(etcd) = held(&self.etcd).take() {
            // In good order, so that its files are whole.
            etcd.terminate();
        }
        let (from, to) = (self.scratch.join(from), self.scratch.join(to));
        if to.exists() {
            std::fs::remove_dir_all(&to).expect("the scratch folder can be written");
        }
        let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.expect("cp can be started").success(), "{} could not be copied", from.display());
        *held(&self.etcd) = Some(start_etcd(&self.scratch, self.settings.version, self.etcd_ports));
        self.start_api(self.settings.version).await;
    }

    /// etcd forgets its history up to now. Says up to which revision.
    pub async fn compact(&self) -> String {
        let url = format!("http://127.0.0.1:{}", self.etcd_ports[0]).parse().expect("our own address");
        podmint_devcluster::choose_crypto();
        let etcd = kube::Client::try_from(kube::Config::new(url)).expect("a client can be made");
        let all = call::post(&etcd, "/v3/kv/range", &json!({"key": "AA==", "limit": "1"})).await;
        let revision = all.expect("etcd answers")["header"]["revision"].as_str().expect("a revision").to_owned();
        call::post(&etcd, "/v3/kv/compaction", &json!({"revision": revision, "physical": true}))
            .await
            .expect("etcd compacts");
        revision
    }

    /// Ends the API server and starts it again with these flags in addition, as an administrator would.
    pub async fn restart_with(&self, flags: &[String]) {
        self.stop_api();
        self.added.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(flags);
        self.start_api(self.version()).await;
    }

    /// A client for anybody. Service accounts use real tokens; nodes and users are impersonated, which is all the same to
    /// authorization and admission.
    pub async fn client(&self, who: &Who) -> kube::Client {
        self.client_through(who, &self.url()).await
    }

    /// The same, by way of another address (a proxy of a story).
    pub async fn client_through(&self, who: &Who, url: &str) -> kube::Client {
        let mut config = self.config(url);
        match who {
            Who::Admin => {}
            Who::Node(_) => {
                config.auth_info.impersonate = Some(who.user_name());
                config.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned()]);
            }
            Who::User(name) => config.auth_info.impersonate = Some(name.clone()),
            Who::ServiceAccount { namespace, name } => {
                let token = self.service_account_token(namespace, name).await;
                config.auth_info.token = Some(token.into());
            }
        }
        podmint_devcluster::choose_crypto();
        kube::Client::try_from(config).expect("a client can be made")
    }

    /// A kubeconfig of a service account, for processes.
    pub async fn kubeconfig(&self, namespace: &str, account: &str) -> String {
        let token = self.service_account_token(namespace, account).await;
        self.kubeconfig_with(&token)
    }

    /// A kubeconfig of the administrator.
    pub fn admin_kubeconfig(&self) -> String {
        self.kubeconfig_with(&self.token)
    }

    /// The version it was started as.
    pub fn version(&self) -> &'static str {
        self.settings.version
    }

    /// The processes of API server and etcd, for `/proc`.
    pub fn pids(&self) -> Vec<i32> {
        self.api().iter().chain(held(&self.etcd).iter()).map(Kept::pid).collect()
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The certificate its own TLS certificate is signed by, as PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A token of a service account that lives for an hour.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> String {
        podmint_devcluster::choose_crypto();
        let admin = kube::Client::try_from(self.config(&self.url())).expect("a client can be made");
        let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let given = call::post(&admin, &path, &ask)
            .await
            .unwrap_or_else(|why| panic!("no token for {namespace}/{name}: {why}"));
        given["status"]["token"].as_str().expect("a token is text").to_owned()
    }

    /// Every write of a certificate request's status by this user, in order, in the API server's own words.
    pub fn status_writes(&self, user: &str) -> Vec<StatusWrite> {
        assert!(self.settings.recorded, "this server records nothing");
        let text = std::fs::read_to_string(self.scratch.join("audit.jsonl")).unwrap_or_default();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| author(record) == Some(user)).map(|record| status_write(&record)).collect()
    }

    fn arguments(&self, version: &str) -> Vec<String> {
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_ports[0]),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://stories.example.org".to_owned(),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--service-account-key-file={}", file("accounts.pub")),
            // Nobody runs a controller manager here that would make tokens and default accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if self.settings.node_restriction {
            arguments.push("--enable-admission-plugins=NodeRestriction".to_owned());
        }
        if self.settings.recorded {
            arguments.push(format!("--audit-policy-file={}", file("audit-policy.yaml")));
            arguments.push(format!("--audit-log-path={}", file("audit.jsonl")));
        }
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (self.settings.pod_certificates, version.starts_with("1.37.")) {
            (true, true) | (false, false) => {}
            (true, false) => arguments.extend([BETA, &gates(true)].map(str::to_owned)),
            (false, true) if added.iter().any(|flag| flag.starts_with("--feature-gates")) => {}
            (false, true) => arguments.push(gates(false)),
        }
        arguments.extend(added);
        arguments
    }

    fn config(&self, url: &str) -> kube::Config {
        let mut config = kube::Config::new(url.parse().expect("our own address"));
        let authority = pem::parse(&self.authority).expect("our own certificate");
        config.root_cert = Some(vec![authority.into_contents()]);
        config.auth_info.token = Some(self.token.clone().into());
        // A story wants to see what the server said the first time.
        config.default_retry = false;
        config
    }

    fn kubeconfig_with(&self, token: &str) -> String {
        let authority = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.authority);
        kubeconfig(json!({"server": self.url(), "certificate-authority-data": authority}), json!({"token": token}))
    }

    fn api(&self) -> MutexGuard<'_, Option<Kept>> {
        held(&self.api)
    }
}

fn held(process: &Mutex<Option<Kept>>) -> MutexGuard<'_, Option<Kept>> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kubeconfig of one cluster and one user.
pub(crate) fn kubeconfig(cluster: Value, user: Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "stories",
        "clusters": [{"name": "stories", "cluster": cluster}],
        "users": [{"name": "stories", "user": user}],
        "contexts": [{"name": "stories", "context": {"cluster": "stories", "user": "stories"}}],
    })
    .to_string()
}

/// Who wrote: the impersonated user where there is one.
fn author(record: &Value) -> Option<&str> {
    record["impersonatedUser"]["username"].as_str().or_else(|| record["user"]["username"].as_str())
}

fn status_write(record: &Value) -> StatusWrite {
    let object = &record["objectRef"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    StatusWrite {
        request: format!("{}/{}", word(&object["namespace"]), word(&object["name"])),
        code: record["responseStatus"]["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or_default(),
        message: word(&record["responseStatus"]["message"]),
    }
}

const BETA: &str = "--runtime-config=certificates.k8s.io/v1beta1=true";

/// All feature gates that pod certificates and trust bundles hang on.
fn gates(on: bool) -> String {
    format!("--feature-gates=PodCertificateRequest={on},ClusterTrustBundle={on},ClusterTrustBundleProjection={on}")
}

/// Writes of a request's status, nothing else.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    verbs: [update, patch]
    resources: [{group: certificates.k8s.io, resources: [podcertificaterequests/status]}]
  - level: None
"#;

fn start_etcd(scratch: &Scratch, version: &str, [port, peer_port]: [u16; 2]) -> Kept {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let arguments = [
        format!("--data-dir={}", scratch.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    Kept::start(&assets::kubernetes(version).join("etcd"), &arguments, &scratch.join("etcd.log"))
}

/// The server's certificate and the key of service account tokens. Returns the authority clients are to trust.
fn write_credentials(scratch: &Scratch) -> String {
    let authority_key = rcgen::KeyPair::generate().expect("a key can be made");
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    authority.distinguished_name.push(rcgen::DnType::CommonName, "stories");
    let certificate = authority.self_signed(&authority_key).expect("the authority signs itself");
    let issuer = rcgen::Issuer::new(authority, authority_key);

    let server_key = rcgen::KeyPair::generate().expect("a key can be made");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = rcgen::CertificateParams::new(names).expect("these are names");
    let server = server.signed_by(&server_key, &issuer).expect("the authority signs the server");
    scratch.write("server.crt", &server.pem());
    scratch.write("server.key", &server_key.serialize_pem());
    let accounts_key = rcgen::KeyPair::generate().expect("a key can be made");
    scratch.write("accounts.key", &accounts_key.serialize_pem());
    scratch.write("accounts.pub", &accounts_key.public_key_pem());
    certificate.pem()
}

/// Sixteen random bytes, as hexadecimal digits.
pub(crate) fn random_word() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The certificates of every kind of profile, judged by programs of other people: zlint's RFC sources lint each certificate of the chain,
//! go-spiffe and Go's crypto/x509 verify it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use podmint_tests::kept::Scratch;
use podmint_tests::keys::KeyType;
use podmint_tests::{Bed, Stage, assets, call, leaf};
use serde_json::{Value, json};

/// What zlint says of certificates that are as they are meant to be, and why each is so.
const EXCEPTIONS: [(&str, &str); 0] = [];

#[test]
fn the_certificates_of_every_profile_pass_zlint_and_go() {
    podmint_tests::run(async {
        let bed = Bed::embedded().await;
        let scratch = Scratch::new();
        let mut linted = 0;
        for (number, profile) in profiles().into_iter().enumerate() {
            let stage = Stage::open(&bed, "profiles").await;
            stage
                .service("web", json!({"selector": {"team": "blue"}, "clusterIP": "None", "ports": [{"port": 443}]}))
                .await;
            let signer =
                stage.a_signer().with("trustDomain", json!("prod.example.org")).with("profile", profile.clone());
            let signer = signer.start().await.ready().await;
            let keys = if number == 0 { &KeyType::ALL[..] } else { &[KeyType::EcdsaP256] };
            for (status, what) in issued(&stage, keys).await {
                let (chain, roots) = (status["certificateChain"].as_str().unwrap(), stage.published_roots().await);
                let said = lint(&format!("{chain}{roots}"));
                assert_eq!(said, [""; 0], "{what} of profile {profile}\n{chain}");
                linted += 1;
                if profile["spiffeId"] != "none" {
                    let home = format!("{number}-{what}");
                    std::fs::create_dir_all(scratch.join("chains").join(&home)).unwrap();
                    scratch.write(&format!("chains/{home}/chain.pem"), chain);
                    scratch.write(&format!("chains/{home}/trust.pem"), &roots);
                }
            }
            signer.stop().await;
        }
        let verified =
            Command::new(assets::go_program("peer")).arg("verify").arg(scratch.join("chains")).output().unwrap();
        let verified = String::from_utf8(verified.stdout).unwrap();
        let (all, good) =
            (verified.lines().count(), verified.lines().filter(|line| line.ends_with(" accept accept")).count());
        eprintln!("{linted} chains linted, {all} verified by crypto/x509 and go-spiffe");
        assert!(all == good && all >= 9, "{verified}");
    });
}

/// OpenSSL, by which nginx, PostgreSQL and curl verify, takes a certificate by each of its names and by no other, and for what its
/// profile is for alone.
#[test]
#[ignore = "tests/run --rest"]
fn openssl_takes_every_profile_by_its_own_names_alone() {
    podmint_tests::run(async {
        let bed = Bed::embedded().await;
        for profile in profiles() {
            let stage = Stage::open(&bed, "openssl").await;
            stage.service("web", json!({"selector": {"team": "blue"}, "ports": [{"port": 443}]})).await;
            let signer = stage.a_signer().with("profile", profile.clone()).start().await.ready().await;
            let status = issued(&stage, &[KeyType::EcdsaP256]).await.swap_remove(0).0;
            let scratch = Scratch::new();
            let chain = scratch.write("chain.pem", status["certificateChain"].as_str().unwrap());
            let trust = scratch.write("trust.pem", &stage.published_roots().await);
            let verify = |words: &[&str]| {
                let mut command = Command::new("openssl");
                command.args(["verify", "-CAfile"]).arg(&trust).arg("-untrusted").arg(&chain).args(words).arg(&chain);
                let done = command.output().expect("openssl is missing (Debian: apt-get install openssl)");
                done.status.success().then_some(()).ok_or_else(|| String::from_utf8(done.stderr).unwrap())
            };
            let (client, server) = leaf::usages(&status);
            for (purpose, is_for) in [("sslclient", client), ("sslserver", server)] {
                let said = verify(&["-purpose", purpose]);
                assert!(said.is_ok() == is_for, "{purpose} of profile {profile}: {said:?}");
                assert!(said.err().is_none_or(|why| why.contains("certificate purpose")), "of profile {profile}");
            }
            let names = leaf::names(&status);
            for (kind, option, other) in
                [("DNS:", "-verify_hostname", "web.other.svc"), ("IP:", "-verify_ip", "10.9.8.8")]
            {
                let own: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(kind)).collect();
                for name in &own {
                    assert_eq!(verify(&[option, name]), Ok(()), "{name} of profile {profile}");
                }
                if let [first, ..] = own.as_slice() {
                    let said = verify(&[option, other]).unwrap_err();
                    assert!(said.contains("mismatch"), "{other} in place of {first}, of profile {profile}: {said}");
                }
            }
            signer.stop().await;
        }
    });
}

/// Every field of a profile at least once, and none.
fn profiles() -> [Value; 8] {
    [
        json!({}),
        json!({"dnsNames": ["services", "hostname"]}),
        json!({"dnsNames": ["services"], "ipAddresses": ["podIPs"]}),
        json!({"spiffeId": "/ns/{namespace}/team/{label:team}", "trustedLabels": ["team"]}),
        json!({"subject": {"organization": "Stories", "organizationalUnit": "{label:team}", "commonName": "{namespace}/{serviceAccount}"}, "trustedLabels": ["team"]}),
        json!({"dnsNames": ["{pod}.{namespace}.pod.cluster.local"], "subject": {"commonName": "{serviceAccount}"}}),
        json!({"spiffeId": "none", "usages": ["client"], "subject": {"commonName": "{serviceAccount}"}}),
        json!({"spiffeId": "none", "usages": ["server"], "dnsNames": ["services"], "ipAddresses": ["podIPs"], "subject": {"organization": "Stories"}}),
    ]
}

/// A certificate for a key of each of these types, of a pod that has everything a profile may ask for.
async fn issued(stage: &Stage, keys: &[KeyType]) -> Vec<(Value, String)> {
    let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
    let mut all = Vec::new();
    for key in keys {
        let name = format!("web-{}", key.word().to_lowercase());
        let plan = stage.a_pod(&name).on(&node).as_account(&account).projecting(*key).labelled("team", "blue");
        let pod = plan.specified("hostname", json!(name)).specified("subdomain", json!("web")).make().await;
        let status = json!({"status": {"podIP": "10.9.8.7", "podIPs": [{"ip": "10.9.8.7"}, {"ip": "fd00::7"}]}});
        call::patch(&stage.admin, &stage.core(&format!("pods/{name}/status")), &status).await.unwrap();
        all.push((stage.issued(&stage.request_for(&pod).make().await).await, key.word().to_owned()));
    }
    all
}

/// What zlint has to say of these certificates that is no exception of ours.
fn lint(chain: &str) -> Vec<String> {
    let mut command = Command::new(assets::go_program("lint"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(chain.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let (lints, rest) = said.split_once('\n').unwrap();
    let count: usize = lints.strip_prefix("lints ").unwrap().parse().unwrap();
    assert!(done.status.success() && count > 100, "zlint has {count} lints");
    let is_exception = |line: &&str| EXCEPTIONS.iter().any(|(lint, _)| line.split(' ').nth(2) == Some(lint));
    rest.lines().filter(|line| !is_exception(line)).map(str::to_owned).collect()
}

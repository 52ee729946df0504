//! `podmint-check`: what it says of good and bad folders, and its exit codes.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod};
use podmint::testkit::{Authority, Issued, Volume};
use std::path::Path;
use std::process::Command;

const CART: &str = "/ns/shop/sa/cart";

fn run(arguments: &[&str]) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_podmint-check");
    let output = Command::new(program).args(arguments).env_remove("SPIFFE_CREDENTIAL_FOLDER").output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn of(folder: &Path) -> (i32, String) {
    run(&[folder.to_str().unwrap()])
}

fn says(folder: &Path, code: i32, words: &[&str]) {
    let (got, text) = of(folder);
    assert_eq!(got, code, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

/// A volume whose key only its owner may read, as `defaultMode: 0440` gives it.
fn private(pod: &Pod, issued: &Issued, trust: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    pod.write(issued, trust);
    let file = std::fs::canonicalize(pod.folder.path().join("bundle.pem")).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o440)).unwrap();
}

#[test]
fn a_good_volume_is_well() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::new();
    private(&pod, &authority.issue(CART), &authority.trust());
    let (code, text) = of(pod.folder.path());
    // inotify may be exhausted on the machine that runs this: that alone is worth a look.
    assert!(code == 0 || (code == 1 && text.contains("inotify says")), "{code}\n{text}");
    for word in [
        "this pod is spiffe://prod.example.org/ns/shop/sa/cart",
        "1 anchors for prod.example.org",
        "our own chain verifies",
    ] {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

#[test]
fn what_works_and_needs_a_look_is_code_1() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    says(pod.folder.path(), 1, &["every user in the pod may read the private key", "set fsGroup"]);
    private(&pod, &authority.issue_valid(CART, -900, 100), &authority.trust());
    says(pod.folder.path(), 1, &["its renewal is overdue", "PodCertificateRequests"]);
    private(&pod, &authority.issue(CART), &Authority::new(DOMAIN).trust());
    says(pod.folder.path(), 1, &["does not verify against our own anchors"]);
}

#[test]
fn what_cannot_work_is_code_2_with_a_way_out() {
    let authority = Authority::new(DOMAIN);
    let (one, two) = (authority.issue(CART), authority.issue(CART));
    let swapped = format!("{}{}", one.key, two.chain);
    type Case<'a> = (&'a [(&'a str, String)], &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (&[], &["holds no private key", "dropped silently"]),
        (&[("bundle.pem", one.bundle())], &["there is no trust bundle", "clusterTrustBundle"]),
        (
            &[("bundle.pem", swapped), ("trust.pem", authority.trust())],
            &["does not belong to the leaf", "two generations"],
        ),
        (&[("bundle.pem", one.bundle()), ("trust.pem", one.chain.clone())], &["holds no CA certificate", "CA:TRUE"]),
        (&[("a.pem", one.bundle()), ("b.pem", two.bundle())], &["several private keys", "--trust"]),
        (
            &[("bundle.pem", one.bundle()), ("x.pem", authority.trust()), ("y.pem", authority.trust())],
            &["do not say whose they are", "--trust"],
        ),
        (
            &[("key.pem", one.key.clone()), ("trust.pem", authority.trust())],
            &["no certificate chain", "certificateChainPath"],
        ),
        (
            &[("bundle.pem", authority.issue_valid(CART, -900, -100).bundle()), ("trust.pem", authority.trust())],
            &["expired", "clocks"],
        ),
        (
            &[("credential-bundle.pem", one.bundle()), ("prod.example.org.trust-bundle.pem", String::new())],
            &["is empty", "labelSelector"],
        ),
    ];
    for (files, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        Volume::new(folder.path()).write(files);
        says(folder.path(), 2, words);
    }
    says(Path::new("/nowhere"), 2, &["/nowhere is missing"]);
}

#[test]
fn other_layouts_are_understood() {
    let (authority, friend) = (Authority::new(DOMAIN), Authority::new("friend.example"));
    let issued = authority.issue(CART);
    let folder = tempfile::tempdir().unwrap();
    Volume::new(folder.path()).write(&[
        ("tls.key.pem", issued.key.clone()),
        ("tls.crt.pem", issued.chain.clone()),
        ("roots.pem", authority.trust()),
    ]);
    says(folder.path(), 1, &["this pod is", "1 anchors for prod.example.org"]);
    // As cert-manager's csi-driver-spiffe has them, and docs/migration.md keeps them.
    let folder = tempfile::tempdir().unwrap();
    Volume::new(folder.path()).write(&[
        ("tls.key", issued.key.clone()),
        ("tls.crt", issued.chain.clone()),
        ("ca.crt", authority.trust()),
        ("readme", "no PEM at all".to_owned()),
    ]);
    says(folder.path(), 1, &["this pod is", "1 anchors for prod.example.org"]);
    Volume::new(folder.path()).write(&[("tls.key", issued.key.replace("PRIVATE KEY", "EC PRIVATE KEY"))]);
    says(folder.path(), 2, &["tls.key", "PKCS#8"]);
    let folder = tempfile::tempdir().unwrap();
    Volume::new(folder.path()).write(&[
        ("credential-bundle.private-key.x509.pem", issued.bundle()),
        ("prod.example.org.spiffe-trust-bundle.x509.pem", authority.trust()),
        ("friend.example.spiffe-trust-bundle.x509.pem", friend.trust()),
    ]);
    says(folder.path(), 1, &["1 anchors for prod.example.org", "1 anchors for friend.example"]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let trust = format!("prod.example.org={}", path("prod.example.org.spiffe-trust-bundle.x509.pem"));
    let (code, text) = run(&[&path("credential-bundle.private-key.x509.pem"), "--trust", &trust]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn wrong_usage_is_code_64() {
    for wrong in
        [&["a", "b"][..], &["--help"], &["a", "--trust"], &["a", "--trust", "nofile"], &["--trust", "a.example=b"]]
    {
        let (code, text) = run(wrong);
        assert_eq!(code, 64, "{wrong:?}");
        assert!(text.contains("usage: podmint-check"));
    }
}

/// Whatever is in the folder, no byte of a key is printed.
#[test]
fn no_key_byte_is_printed() {
    let authority = Authority::new(DOMAIN);
    let issued = authority.issue(CART);
    let body: String = issued.key.lines().filter(|line| !line.starts_with("-----")).collect();
    let mangled = issued.key.replace("PRIVATE KEY", "EC PRIVATE KEY");
    for bundle in [issued.bundle(), mangled, format!("{}x", issued.bundle()), body.clone()] {
        let folder = tempfile::tempdir().unwrap();
        Volume::new(folder.path()).write(&[("bundle.pem", bundle), ("trust.pem", authority.trust())]);
        let (_, text) = of(folder.path());
        for run in body.as_bytes().windows(8).skip(48) {
            assert!(!text.contains(std::str::from_utf8(run).unwrap()), "{text}");
        }
    }
}

#[test]
fn podmint_dev_names_the_folder_that_it_cannot_make() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop"), "a file in the way").unwrap();
    let dev = Command::new(env!("CARGO_BIN_EXE_podmint-dev")).arg(folder.path()).arg("shop/cart").output().unwrap();
    let said = String::from_utf8(dev.stderr).unwrap();
    let named = folder.path().join("shop/cart").display().to_string();
    assert!(dev.status.code() == Some(1) && said.contains(&named), "{said}");
}

/// `podmint-dev` writes what `podmint-check` finds in order, and renews it.
#[test]
fn podmint_dev_gives_credentials_that_renew() {
    use std::io::{BufRead as _, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_podmint-dev"))
        .args([folder.path().to_str().unwrap(), "shop/cart", "shop/till", "--life", "10", "--trust-domain", DOMAIN])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    let cart = folder.path().join("shop/cart");
    assert_eq!(lines[0], format!("SPIFFE_CREDENTIAL_FOLDER={}", cart.display()));
    assert_eq!(lines[2], "renewing every 5 s");
    let identity = podmint::Source::folder(&cart).builder().provider(kit::aws()).start_blocking().unwrap();
    let (_, text) = of(&folder.path().join("shop/till"));
    assert!(text.contains("this pod is spiffe://prod.example.org/ns/shop/sa/till"), "{text}");
    let start = std::time::Instant::now();
    while identity.snapshot().generation() < 2 {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "nothing was renewed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

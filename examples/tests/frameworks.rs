//! The programs in `examples/examples`, as a reader would run them: server and client in processes of their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

use podmint::testkit::{Authority, Volume};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ends a server with the test, however that ends.
struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn program(name: &str, folder: &Path, argument: &str) -> Command {
    // cargo puts them beside the folder of this test.
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo test builds it", path.display());
    let mut command = Command::new(path);
    command.arg(argument).env("SPIFFE_CREDENTIAL_FOLDER", folder);
    command
}

fn serve(name: &str, folder: &Path) -> Server {
    let mut child = program(name, folder, "127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    Server(child, address)
}

fn output(name: &str, folder: &Path, argument: &str) -> String {
    let output = program(name, folder, argument).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder for each pod, as SPIFFE Filesystem Delivery lays it out.
fn pods(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("prod.example.org");
    let write = |name: &&str| {
        let pod = folder.path().join(name);
        std::fs::create_dir(&pod).unwrap();
        Volume::new(&pod).write(&[
            ("credential-bundle.private-key.x509.pem", authority.issue(&format!("/ns/shop/sa/{name}")).bundle()),
            ("prod.example.org.spiffe-trust-bundle.x509.pem", authority.trust()),
        ]);
        pod
    };
    let pods = names.iter().map(write).collect();
    (folder, pods)
}

#[test]
fn axum_serves_hyper_and_reqwest() {
    let (_folder, pods) = pods(&["stock", "cart", "till"]);
    let (stock, cart, till) = (&pods[0], &pods[1], &pods[2]);
    let server = serve("axum-server", stock);
    let uri = format!("https://{}", server.1);
    assert_eq!(
        output("hyper-client", cart, &format!("{uri}/")),
        "spiffe://prod.example.org/ns/shop/sa/stock says 200 OK: hello spiffe://prod.example.org/ns/shop/sa/cart\n"
    );
    assert!(output("hyper-client", cart, &format!("{uri}/refund")).contains("403 Forbidden"));
    assert_eq!(output("reqwest-client", till, &format!("{uri}/refund")), "200 OK: refunded\n");
}

#[test]
fn tonic_serves_tonic() {
    let (_folder, pods) = pods(&["till", "cart"]);
    let server = serve("tonic-server", &pods[0]);
    assert_eq!(output("tonic-client", &pods[1], &format!("https://{}", server.1)), "Serving\n");
}

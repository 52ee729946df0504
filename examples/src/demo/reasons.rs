//! Why the signer holds a request, for the view alone: from its metrics at once, from its Event on the pod after half a minute.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use kube::api::ListParams;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kinds;
use super::news::{News, Reporter};
use super::scene::NEWCOMER;

/// Looks every second, and tells what is new. Never ends.
pub async fn follow(client: Client, metrics: SocketAddr, reporter: Reporter) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // What cannot be read now is read the next time: the run does not depend on it.
        let why = match event(&client).await {
            Some(message) => message,
            None => match tokio::time::timeout(PATIENCE, page(metrics)).await {
                Ok(Ok(page)) => in_words(&reasons(&page)),
                Ok(Err(_)) | Err(_) => continue,
            },
        };
        if !why.is_empty() && why != told {
            told.clone_from(&why);
            reporter.tell(News::Held { pod: format!("{}/{}", NEWCOMER.namespace, NEWCOMER.name), why });
        }
    }
}

/// The signer's own words to the pod's author.
async fn event(client: &Client) -> Option<String> {
    let events = kinds::api(client, &kinds::core("Event", "events"), NEWCOMER.namespace);
    let listed = events.list(&ListParams::default()).await.ok()?;
    let ours = listed.items.iter().filter(|event| {
        let component =
            ["/source/component", "/reportingComponent"].map(|path| event.data.pointer(path).and_then(Value::as_str));
        component.into_iter().flatten().any(|component| component.contains("podmint"))
    });
    ours.filter_map(|event| event.data.pointer("/message").and_then(Value::as_str)).next_back().map(str::to_owned)
}

async fn page(metrics: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(metrics).await.context("the signer's metrics cannot be reached")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// The reasons of all holds so far, as the metrics label them.
fn reasons(page: &str) -> Vec<&str> {
    let holds = page
        .lines()
        .filter(|line| line.starts_with("podmint_signer_answers_total{") && line.contains("answer=\"hold\""));
    holds.filter_map(|line| line.split_once("reason=\"")?.1.split_once('"')).map(|(reason, _)| reason).collect()
}

/// While the CA is being made everything is held for a moment; what is left is the pod's own reason.
fn in_words(reasons: &[&str]) -> String {
    if reasons.contains(&"not_admitted") {
        return "no rule of the PodSigner admits this namespace (not_admitted)".to_owned();
    }
    reasons.join(", ")
}

/// On loopback.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_the_metrics() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE podmint_signer_answers counter\n\
            podmint_signer_answers_total{answer=\"issue\",reason=\"issued\"} 4\n\
            podmint_signer_answers_total{answer=\"hold\",reason=\"not_admitted\"} 7\n";
        assert_eq!(reasons(page), ["not_admitted"]);
        assert_eq!(in_words(&["trust_not_published"]), "trust_not_published");
    }
}

//! What an administrator puts on hold gets nothing new, from that moment and by every replica, until it is released; the others are served.

use podmint_signer::kubectl::Installation;
use podmint_signer::kubectl::hold::{CannotHold, Order, Standing, hold};
use podmint_signer::kubectl::shown::Shown as _;
use podmint_signer::names::{DnsName, Namespace};
use podmint_signer::pipeline::Scope;
use podmint_tests::kept::Scratch;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::{Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, assets, call, install, on_every_bed};
use serde_json::{Value, json};

on_every_bed! {
    /// A node that may have been taken over is held: its pods get nothing new from either replica, wherever they ask, and are told; what
    /// they had is listed until its end; the pods of other nodes are served. Released, they get what they asked for.
    async fn a_held_nodes_pods_get_nothing_new(bed: Bed) {
        let stage = Stage::open(&bed, "held").await;
        let first = stage.a_signer().start().await.ready().await;
        let second = stage.a_signer().called("replica-b").start().await.ready().await;
        let account = stage.account("shop").await;
        let (taken, sound) = (stage.node("taken").await, stage.node("sound").await);
        let pod = stage.a_pod("web").on(&taken).as_account(&account).make().await;
        let other = stage.a_pod("other").on(&sound).as_account(&account).make().await;
        let before = stage.issued(&stage.request_for(&pod).make().await).await;

        let scope = Scope::parse("node", None, &taken.name).unwrap();
        let order = Order::Hold { scope: scope.clone(), reason: Some("root was here".to_owned()), absent: false };
        let standing = ordered(&stage, order).await.unwrap();
        let said = standing.to_json();
        assert_eq!((standing.exit_status(), &said["holds"][0]["reason"]), (0, &json!("root was here")), "{said}");
        let valid = json!({"namespace": stage.namespace, "pod": "web", "signerName": stage.signer_name, "until": before["notAfter"], "exact": true});
        assert_eq!(said["holds"][0]["stillValid"]["certificates"], json!([valid]), "{said}");

        // A renewal, and a pod that is new.
        let renewal = stage.request_for(&pod).make().await;
        let late = stage.a_pod("late").on(&taken).as_account(&account).make().await;
        let new = stage.request_for(&late).make().await;
        stage.issued(&stage.request_for(&other).make().await).await;
        let told = until("the pod is told", async || stage.events_of(&late).await.into_iter().next()).await;
        let told = told["message"].as_str().unwrap();
        assert!(told.contains(&format!("node {} is on hold", taken.name)) && told.contains("root was here"), "{told}");
        assert!(told.contains(&format!("kubectl podmint release node/{}", taken.name)), "{told}");
        let audit = first.audit();
        let held: Vec<&Value> = audit.iter().filter(|line| line["event"] == "held" && line["request"]["uid"] == new.uid).collect();
        let [line] = held.as_slice() else { panic!("one line: {held:#?}") };
        assert_eq!((&line["hold"]["kind"], &line["hold"]["name"], &line["pod"]["name"]), (&json!("node"), &json!(taken.name), &json!("late")));

        // The other replica holds them as well.
        first.stop().await;
        second.says("hold", "on_hold").await;
        stays_pending(&stage, &[&renewal, &new]).await;
        assert!(second.metric("podmint_signer_holds", &[]).await > 0.5);

        ordered(&stage, Order::Release(scope)).await.unwrap();
        stage.issued(&renewal).await;
        stage.issued(&new).await;
        second.stop().await;
    }

    /// Each kind of hold is for whom it names, and for nobody else.
    async fn each_kind_of_hold_is_for_whom_it_names(bed: Bed) {
        let stage = Stage::open(&bed, "kinds").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, cart, bank) = (stage.node("node-a").await, stage.account("cart").await, stage.account("bank").await);
        let one = stage.a_pod("one").on(&node).as_account(&cart).make().await;
        let two = stage.a_pod("two").on(&node).as_account(&bank).make().await;
        for (kind, name, holds) in [
            ("pod", "one".to_owned(), [true, false]),
            ("serviceaccount", "bank".to_owned(), [false, true]),
            ("namespace", stage.namespace.clone(), [true, true]),
            ("pod", "three".to_owned(), [false, false]),
        ] {
            let scope = Scope::parse(kind, Some(&stage.namespace), &name).unwrap();
            ordered(&stage, Order::Hold { scope: scope.clone(), reason: None, absent: true }).await.unwrap();
            let mut held = Vec::new();
            for (pod, is_held) in [&one, &two].into_iter().zip(holds) {
                let request = stage.request_for(pod).make().await;
                if is_held {
                    held.push(request);
                } else {
                    stage.issued(&request).await;
                }
            }
            stays_pending(&stage, &held.iter().collect::<Vec<_>>()).await;
            ordered(&stage, Order::Release(scope)).await.unwrap();
            for request in &held {
                stage.issued(request).await;
            }
        }
        signer.stop().await;
    }

    /// An entry that nobody can understand holds nobody and is said aloud; those beside it hold. Both are seen by who lists them.
    async fn what_cannot_be_understood_is_said_and_hides_nothing(bed: Bed) {
        let stage = Stage::open(&bed, "garbled").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let pods = [stage.a_pod("one").on(&node).as_account(&account).make().await, stage.a_pod("two").on(&node).as_account(&account).make().await];
        let map = json!({"metadata": {"name": "podmint-holds"}, "data": {
            "a": "{kind: pod, namespace: [", "b": "nod/one", "c": format!("{{kind: pod, namespace: {}, name: one}}", stage.namespace),
        }});
        call::post(&stage.admin, &stage.core("configmaps"), &map).await.unwrap();
        let [held, free] = [stage.request_for(&pods[0]).make().await, stage.request_for(&pods[1]).make().await];
        stage.issued(&free).await;
        stays_pending(&stage, &[&held]).await;
        assert_eq!([signer.metric("podmint_signer_holds", &[]).await, signer.metric("podmint_signer_malformed_holds", &[]).await], [1.0, 2.0]);
        let standing = ordered(&stage, Order::List).await.unwrap();
        let keys: Vec<Value> = standing.to_json()["malformed"].as_array().unwrap().iter().map(|entry| entry["key"].clone()).collect();
        assert_eq!((keys, standing.exit_status()), (vec![json!("a"), json!("b")], 1), "{standing:?}");
        assert!(standing.text(false).contains("HOLDS NOBODY"), "{}", standing.text(false));
        ordered(&stage, Order::ReleaseKey("a".to_owned())).await.unwrap();
        ordered(&stage, Order::ReleaseAll).await.unwrap();
        stage.issued(&held).await;
        signer.stop().await;
    }

    /// Two who hold at the same moment both do; what is not there, or not on hold, is not passed over in silence.
    async fn who_holds_is_told_when_it_would_be_in_vain(bed: Bed) {
        let stage = Stage::open(&bed, "in-vain").await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let typo = Scope::parse("node", None, "node-b").unwrap();
        let refused = ordered(&stage, Order::Hold { scope: typo, reason: None, absent: false }).await.unwrap_err();
        assert!(matches!(&refused, CannotHold::NotThere(_)) && refused.to_string().contains("--absent"), "{refused}");
        let scopes = [Scope::parse("no", None, &node.name).unwrap(), Scope::parse("sa", Some(&stage.namespace), &account.name).unwrap()];
        let orders = scopes.clone().map(|scope| ordered(&stage, Order::Hold { scope, reason: None, absent: false }));
        for done in futures::future::join_all(orders).await {
            done.unwrap();
        }
        assert_eq!(ordered(&stage, Order::List).await.unwrap().to_json()["holds"].as_array().map(Vec::len), Some(2));
        let nearly = Scope::parse("no", None, &format!("{}x", node.name)).unwrap();
        let refused = ordered(&stage, Order::Release(nearly)).await.unwrap_err();
        assert!(refused.to_string().ends_with(&format!("did you mean node/{}?", node.name)), "{refused}");
    }
}

/// The commands themselves, by a user with the roles of the chart and no other right; one without them is told which he lacks.
#[test]
fn the_commands_need_the_roles_of_the_chart_and_no_more() {
    podmint_tests::run(async {
        let bed = Bed::own(podmint_tests::server::Settings::of(assets::VERSIONS[0])).await;
        install::crd(&bed).await;
        let stage = Stage::open(&bed, "roles").await;
        let mut object = stage.a_signer().object();
        object["metadata"]["name"] = json!(stage.namespace);
        call::post(&stage.admin, install::PODSIGNERS, &object).await.unwrap();
        let signer = stage.a_signer().from_objects().start().await.ready().await;
        let pod = stage.any_pod().await;
        let served = stage.request_for(&pod).make().await;
        stage.issued(&served).await;
        let user = bound(&stage, &["podmint-user"]).await;
        let holder = bound(&stage, &["podmint-user", "podmint-holder"]).await;
        let nobody = bound(&stage, &[]).await;

        let json = user.shows("status", &[], 0).await;
        assert_eq!(json["podSigners"][0]["signerName"], json!(stage.signer_name), "{json}");
        let json = user.shows("explain", &["pod/web", "-n", &stage.namespace], 0).await;
        assert_eq!(json["sources"][0]["answer"], "issued", "{json}");
        let (status, said) = user.runs("hold", &["pod/web", "-n", &stage.namespace]).await;
        assert!(status == 2 && said.contains("nothing has changed") && said.contains("forbidden"), "{said}");
        let (status, said) = holder.runs("hold", &["pod", "web", "-n", &stage.namespace, "--reason", "a leak"]).await;
        assert!(status == 0 && said.contains("pod web of namespace") && said.contains("STILL VALID UNTIL"), "{said}");

        let request = stage.request_for(&pod).make().await;
        stays_pending(&stage, &[&request]).await;
        let (status, said) = user.runs("requests", &["-n", &stage.namespace, "-o", "wide"]).await;
        assert!(
            status == 1 && said.contains("held: on_hold") && said.contains("a leak") && said.contains(&request.name),
            "{said}"
        );
        let (status, explained) = user.runs("explain", &["pod/web", "-n", &stage.namespace]).await;
        assert!(status == 1 && explained.contains("WAITS (on_hold)"), "{explained}");
        let json = user.shows("requests", &["-n", &stage.namespace], 1).await;
        assert_eq!(json["requests"][0]["reason"], "on_hold", "{json}");
        let json = user.shows("explain", &["pod", "web", "-n", &stage.namespace], 1).await;
        assert_eq!(json["sources"][0]["reason"], "on_hold", "{json}");
        let json = user.shows("hold", &[], 0).await;
        assert_eq!(json["holds"][0]["reason"], "a leak", "{json}");
        let (status, said) = holder.runs("release", &["pod/web", "-n", &stage.namespace]).await;
        assert!(status == 0 && said.starts_with("released"), "{said}");
        let held = ["node/worker-9", "--absent"];
        let json = holder.shows("hold", &held, 0).await;
        assert_eq!(json["holds"][0]["kind"], "node", "{json}");
        let (status, said) = holder.runs("release", &["node/worker-9", "-o", "json"]).await;
        let json: Value = serde_json::from_str(&said).unwrap_or_else(|why| panic!("{why}: {said}"));
        assert_eq!((status, &json["holds"]), (0, &json!([])), "{said}");
        stage.issued(&request).await;
        let (status, said) = user.runs("requests", &["-A"]).await;
        assert_eq!((status, said.as_str()), (0, "nothing is pending\n"));

        let (status, said) = nobody.runs("explain", &["pod/web", "-n", &stage.namespace]).await;
        assert!(status == 2 && said.contains("could not read") && said.contains("forbidden"), "{said}");
        for slip in
            [&["hold", "worker-3"][..], &["hold", "deployment/web"], &["release"], &["hold", "pod/Web"], &["explain"]]
        {
            let (status, said) = holder.runs(slip[0], &slip[1..]).await;
            assert!(
                status == 2
                    && (said.contains("KIND/NAME")
                        || said.contains("must be pod")
                        || said.contains("pod name")
                        || said.contains("pod/NAME")),
                "{slip:?}: {said}"
            );
        }
        signer.stop().await;
    });
}

/// A user of the command.
struct User {
    kubeconfig: std::path::PathBuf,
    signer_namespace: String,
    _scratch: Scratch,
}

impl User {
    /// What a command shows, with this exit status whichever way it is asked for; as JSON and YAML the same, for people more when wide.
    async fn shows(&self, command: &str, words: &[&str], status: i32) -> Value {
        let mut said = Vec::new();
        for form in ["json", "yaml", "text", "wide"] {
            let (ended, shown) = self.runs(command, &[words, &["-o", form]].concat()).await;
            assert_eq!(ended, status, "{command} {words:?} -o {form}: {shown}");
            said.push(shown);
        }
        let json: Value = serde_json::from_str(&said[0]).unwrap_or_else(|why| panic!("{why}: {}", said[0]));
        let yaml: Value = serde_saphyr::from_str(&said[1]).unwrap_or_else(|why| panic!("{why}: {}", said[1]));
        assert_eq!(shape(&json), shape(&yaml), "{command} {words:?}");
        let words = |text: &str| text.split_whitespace().count();
        assert!(words(&said[2]) <= words(&said[3]), "{}{}", said[2], said[3]);
        json
    }

    /// The exit status, and all that is said.
    async fn runs(&self, command: &str, words: &[&str]) -> (i32, String) {
        let mut program = tokio::process::Command::new(assets::binary("kubectl-podmint"));
        program
            .arg(command)
            .args(words)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--signer-namespace")
            .arg(&self.signer_namespace);
        let done = program.output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        (done.status.code().unwrap(), said.into_owned())
    }
}

/// Without numbers, which tell an age here and there, without an end that is counted from now, and without the moment of what was done
/// again each time.
fn shape(value: &Value) -> Value {
    match value {
        Value::Number(_) => Value::Null,
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(fields) => {
            let still =
                |key: &String| if ["allEndBy", "since"].contains(&&**key) { Value::Null } else { shape(&fields[key]) };
            fields.keys().map(|key| (key.clone(), still(key))).collect()
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

/// A new account with these roles of the chart.
async fn bound(stage: &Stage, roles: &[&str]) -> User {
    let name = if roles.is_empty() { "nobody".to_owned() } else { roles.join("-and-") };
    stage.account(&name).await;
    let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": stage.namespace}]);
    for mut object in install::manifest("roles.yaml") {
        let role = object["metadata"]["name"].as_str().unwrap().to_owned();
        if !roles.contains(&role.as_str()) {
            continue;
        }
        let kind = object["kind"].as_str().unwrap().to_owned();
        let mut metadata = json!({"name": format!("{role}-{name}")});
        if kind == "Role" {
            metadata["namespace"] = json!(stage.signer_namespace);
            object["metadata"]["namespace"] = json!(stage.signer_namespace);
        }
        install::apply(&stage.admin, &object).await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata, "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        });
        install::apply(&stage.admin, &binding).await;
    }
    let scratch = Scratch::new();
    let kubeconfig = scratch.write("kubeconfig", &stage.bed.kubeconfig(&stage.namespace, &name).await);
    User { kubeconfig, signer_namespace: stage.signer_namespace.clone(), _scratch: scratch }
}

async fn ordered(stage: &Stage, order: Order) -> Result<Standing, CannotHold> {
    let installation = Installation {
        domain: DnsName::parse("podmint.dev").unwrap(),
        namespace: Namespace::parse(&stage.signer_namespace).unwrap(),
        cluster_domain: DnsName::parse("cluster.local").unwrap(),
    };
    hold(stage.bed.admin_config().await, installation, order).await
}

async fn stays_pending(stage: &Stage, requests: &[&Request]) {
    never("what is on hold was answered", MINUTE, async || {
        for request in requests {
            if let Some(said) = stage.read(request).await.as_ref().and_then(Said::of) {
                return Some(format!("{}: {said:?}", request.name));
            }
        }
        None
    })
    .await;
}

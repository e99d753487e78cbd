//! Reviews in, answers out: each kind of object in each version, and what is no review.
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    tls::{bad, connect, good, post, review, reviewed, send},
    *,
};

async fn serving() -> Result<(Server, Replica, Vec<u8>)> {
    let api = deployed().await?;
    let replica = Replica::start(&api, &[]).await?;
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    Ok((api, replica, trusted))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_in_each_version_is_refused_at_its_field() -> Result<()> {
    let (_api, replica, trusted) = serving().await?;
    for version in ["v1", "v1beta2", "v1beta1"] {
        for (resource, path) in [
            ("resourceclaims", "spec.devices"),
            ("resourceclaimtemplates", "spec.spec.devices"),
            ("deviceclasses", "spec"),
        ] {
            let fine = review(resource, version, "CREATE", &[good()]);
            let answer = reviewed(replica.address, &trusted, &fine).await?;
            let uid = fine["request"]["uid"].clone();
            assert_eq!(answer["response"], json!({"uid": uid, "allowed": true}));
            let wrong = review(resource, version, "CREATE", &[good(), bad(), json!({"kind": "GpuConfig"})]);
            let answer = reviewed(replica.address, &trusted, &wrong).await?;
            assert_eq!(
                (&answer["kind"], &answer["apiVersion"]),
                (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
            );
            assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&uid, &json!(false)));
            let message = answer["response"]["status"]["message"].as_str().unwrap();
            for (at, fault) in [(1, "timeSlice: is no field of GpuConfig"), (2, "apiVersion: is missing")] {
                assert!(message.contains(&format!("{path}.config[{at}].opaque.parameters.{fault}")), "{message}");
            }
        }
    }
    replica.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_goes_or_stays_as_it_was_is_allowed() -> Result<()> {
    let (_api, replica, trusted) = serving().await?;
    let mut going = review("resourceclaims", "v1", "UPDATE", &[bad()]);
    going["request"]["object"]["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
    let mut same = review("deviceclasses", "v1", "UPDATE", &[bad()]);
    same["request"]["oldObject"] = same["request"]["object"].clone();
    same["request"]["object"]["metadata"]["labels"] = json!({"new": "label"});
    for review in [going, same] {
        assert_eq!(reviewed(replica.address, &trusted, &review).await?["response"]["allowed"], json!(true));
    }
    replica.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_told_so_and_the_next_one_is_answered() -> Result<()> {
    let (_api, replica, trusted) = serving().await?;
    let deep = "[".repeat(100_000);
    let mut wide = review("resourceclaims", "v1", "CREATE", &[]);
    wide["request"]["object"]["spec"]["devices"]["config"] = json!(vec![0; 1 << 20]);
    let wide = wide.to_string();
    for (content, body, code) in [
        ("application/json", "", StatusCode::BAD_REQUEST),
        ("application/json", "{\"kind\": \"AdmissionReview\"", StatusCode::BAD_REQUEST),
        ("application/json", "{\"request\": {}}", StatusCode::BAD_REQUEST),
        ("application/json", &deep, StatusCode::BAD_REQUEST),
        ("application/json", &wide, StatusCode::BAD_REQUEST),
        ("application/x-www-form-urlencoded", "a=b", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/json", &" ".repeat((3 << 20) + 1), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let stream = connect(replica.address, &trusted).await?;
        match send(stream, post(content, body.to_owned())?).await {
            Ok((answered, text)) => assert_eq!(answered, code, "{text}"),
            // A body that is too large needn't be taken to its end.
            Err(error) => assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "{error}"),
        }
    }
    for (request, code) in [
        (Request::get("/validate"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::get("/"), StatusCode::NOT_FOUND),
        (Request::get("/healthz"), StatusCode::OK),
    ] {
        let request = request.header("Host", HOST).body(Full::default())?;
        assert_eq!(send(connect(replica.address, &trusted).await?, request).await?.0, code);
    }
    let mut plain = TcpStream::connect(replica.address).await?;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    // It may be reset.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "there is no answer without TLS");
    let answer: Value = reviewed(replica.address, &trusted, &review("deviceclasses", "v1", "CREATE", &[bad()])).await?;
    assert_eq!(answer["response"]["allowed"], json!(false));
    replica.stop().await
}

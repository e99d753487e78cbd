//! A client as the API server is one: it trusts a bundle, expects the Service's name, and posts reviews.
use std::{net::SocketAddr, sync::Arc};

use aliquot_tests::testbed::Result;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{DRIVER, HOST};

/// A connection to a webhook that whoever trusts `bundle` trusts.
pub(super) async fn connect(address: SocketAddr, bundle: &[u8]) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(bundle) {
        roots.add(ca?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?)
}

/// The certificate that a connection was made with.
pub(super) fn certificate(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

/// One request over a connection.
pub(super) async fn send(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Result<(StatusCode, String)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    connection.await??;
    Ok((code, String::from_utf8(body.to_vec())?))
}

/// A request with a body of this type.
pub(super) fn post(content: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>> {
    let request = Request::post("/validate").header("Host", HOST).header("Content-Type", content);
    Ok(request.body(Full::new(body.into()))?)
}

/// What the webhook answers to a review.
pub(super) async fn reviewed(address: SocketAddr, bundle: &[u8], review: &Value) -> Result<Value> {
    let stream = connect(address, bundle).await?;
    let (code, body) = send(stream, post("application/json", review.to_string())?).await?;
    assert_eq!(code, StatusCode::OK, "{body}");
    Ok(serde_json::from_str(&body)?)
}

/// A review of an object, as it is written in that version, with a list of these parameters for the driver.
pub(super) fn review(resource: &str, version: &str, operation: &str, parameters: &[Value]) -> Value {
    let config: Vec<Value> =
        parameters.iter().map(|one| json!({"opaque": {"driver": DRIVER, "parameters": one}})).collect();
    let request = if version == "v1beta1" {
        json!({"name": "gpu", "deviceClassName": "gpu.aliquot.dev"})
    } else {
        json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.aliquot.dev"}})
    };
    let devices = json!({"requests": [request], "config": config});
    let (kind, spec) = match resource {
        "resourceclaims" => ("ResourceClaim", json!({"devices": devices})),
        "resourceclaimtemplates" => ("ResourceClaimTemplate", json!({"spec": {"devices": devices}})),
        _ => ("DeviceClass", json!({"config": config})),
    };
    let object = json!({"apiVersion": format!("resource.k8s.io/{version}"), "kind": kind, "metadata": {"name": "one"},
        "spec": spec});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "resource.k8s.io", "version": version, "kind": kind},
        "resource": {"group": "resource.k8s.io", "version": version, "resource": resource},
        "name": "one", "namespace": "default", "operation": operation, "object": object, "oldObject": null,
        "userInfo": {"username": "someone"}, "dryRun": false, "options": {}}})
}

/// Parameters that are right.
pub(super) fn good() -> Value {
    json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig"})
}

/// Parameters with a field that there isn't.
pub(super) fn bad() -> Value {
    json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig", "timeSlice": "Short"})
}

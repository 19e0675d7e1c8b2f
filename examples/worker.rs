//! A worker: it lends this machine's devices to programs on others, which name it as their device.
//!
//! ```text
//! cargo run --example worker --features worker -- --device flex
//! ```

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use burn::server::{
    IrohIdentity, IrohRelays, IrohTransport, RemoteServer, TokenAuthorizer, WebSocketTransport,
};
use clap::Parser;
use leap_lab::{end, say};
use rand::Rng;

/// Lends devices to programs elsewhere, until Ctrl-C.
///
/// By default over Iroh: encrypted, reached from any network by the id that is shown. Only programs that know the token
/// are served: that in the environment variable LEAP_TOKEN, or one that is drawn and shown.
#[derive(Parser)]
struct Args {
    /// What to lend: devices of one backend, separated by commas
    #[arg(long, default_value = "flex")]
    device: String,
    /// File of the worker's secret key, which its id belongs to; it is made if there is none
    #[arg(long, default_value = "worker.key")]
    identity: PathBuf,
    /// Be reached directly at this UDP port, without public relays
    #[arg(long)]
    port: Option<u16>,
    /// Serve over WebSocket at this address instead, without encryption, for networks that are trusted
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:3000")]
    websocket: Option<SocketAddr>,
    /// Serve everybody who reaches the WebSocket address
    #[arg(long, requires = "websocket", conflicts_with = "port")]
    no_token: bool,
}

fn main() -> ExitCode {
    end(serve())
}

fn serve() -> Result<()> {
    let args = Args::parse();
    let server = RemoteServer::new(leap_core::devices(&args.device)?);
    let given = std::env::var("LEAP_TOKEN").ok();
    let token = match &given {
        _ if args.no_token => None,
        Some(token) => Some(token.clone()),
        None => Some(draw_token()),
    };
    let server = match &token {
        None => server,
        Some(token) => server.with_authorizer(
            TokenAuthorizer::new(token.as_str()).context("LEAP_TOKEN must not be empty")?,
        ),
    };
    let shown = match (token, given) {
        (Some(token), None) => format!("LEAP_TOKEN={token} "),
        _ => String::new(),
    };
    let lends = |name: String| {
        say(&format!(
            "{} is lent: {shown}… --device {name}",
            args.device
        ))
    };
    match args.websocket {
        Some(address) => {
            let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
            let mut shown = listener.local_addr()?;
            if shown.ip().is_unspecified() {
                shown.set_ip(own_address());
            }
            lends(format!("ws://{shown}"));
            server.serve(WebSocketTransport::from_listener(listener))?;
        }
        None => {
            let identity = IrohIdentity::load_or_create(&args.identity)
                .with_context(|| args.identity.display().to_string())?;
            let transport = IrohTransport::new(identity);
            let id = transport.id();
            let (name, transport) = match args.port {
                None => (format!("iroh:{id}"), transport),
                Some(port) => (
                    format!("iroh:{id}@{}", SocketAddr::new(own_address(), port)),
                    transport.with_relays(IrohRelays::Disabled).with_port(port),
                ),
            };
            lends(name);
            server.serve(transport)?;
        }
    }
    Ok(())
}

/// 128 random bits.
fn draw_token() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// The address of this machine in its network. Nothing is sent.
fn own_address() -> IpAddr {
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    });
    address.unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

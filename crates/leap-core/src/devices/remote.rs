//! Workers: the devices of other machines.
//!
//! Burn sends operations to a worker and waits for what it reads back, without end where the worker hangs. Over Iroh the
//! connection notices; over WebSocket, connections go through a relay in this process, which asks the worker's process now
//! and then whether it is alive, and cuts them where it is not. A read then fails, and the lane is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use burn::remote::{ConnectError, EndpointId, IrohHost, IrohRelays, RemoteHost};
use burn::tensor::Device;

/// How often a worker is asked whether it is alive.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device of a worker, by its name as in [`device`](crate::device).
pub(crate) fn worker(name: &str) -> Result<Device, String> {
    let (host, number) = match name.split_once('#') {
        None => (name, 0),
        Some((host, number)) => match number.parse::<usize>() {
            Ok(number) => (host, number),
            Err(_) => return Err(format!("`{number}` is not the number of a device")),
        },
    };
    let host = match host.strip_prefix("iroh:") {
        None => {
            let address = host.trim_start_matches("ws://").trim_end_matches('/');
            let relay = watch(address).map_err(|e| format!("it cannot be reached: {e}"))?;
            RemoteHost::websocket(&format!("ws://{relay}"))
        }
        Some(worker) => {
            let (id, address) = match worker.split_once('@') {
                None => (worker, None),
                Some((id, address)) => (id, Some(address)),
            };
            let id: EndpointId = id
                .parse()
                .map_err(|e| format!("`{id}` is no id of a worker: {e}"))?;
            let host = IrohHost::new(id);
            RemoteHost::iroh(match address {
                None => host,
                Some(address) => {
                    let address = address.parse().map_err(|e| format!("`{address}`: {e}"))?;
                    host.with_relays(IrohRelays::Disabled).with_address(address)
                }
            })
        }
    };
    let host = match std::env::var("LEAP_TOKEN") {
        Ok(token) => host.with_credential(token.into_bytes()),
        Err(_) => host,
    };
    let connected = Device::remote_options(&host).device_index(number).init();
    connected.map_err(|error| match error {
        ConnectError::Unauthorized => {
            "the worker does not accept the token in LEAP_TOKEN".to_string()
        }
        other => other.to_string(),
    })
}

/// Connections through a relay.
type Streams = Arc<Mutex<Vec<TcpStream>>>;

/// Starts a relay to the worker at `address`, which ends connections when the worker does not answer any more.
fn watch(address: &str) -> std::io::Result<SocketAddr> {
    // Such as `localhost`, which may be both ::1 and 127.0.0.1.
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    let mut answers = None;
    for worker in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&worker, PATIENCE) {
            Ok(_) => {
                answers = Some(worker);
                break;
            }
            Err(error) => last = error,
        }
    }
    let worker = answers.ok_or(last)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let relay = listener.local_addr()?;
    let streams = Streams::default();
    let open = streams.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect_timeout(&worker, PATIENCE) else {
                continue; // which ends the client's connection
            };
            let _ = forward(&client, &server, &open).and(forward(&server, &client, &open));
        }
    });
    std::thread::spawn(move || {
        while is_alive(&worker) {
            std::thread::sleep(INTERVAL);
        }
        log::warn!("the worker at {worker} does not answer");
        for stream in streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    Ok(relay)
}

/// Copies what comes from `from` to `to`, until one of them ends.
fn forward(from: &TcpStream, to: &TcpStream, open: &Streams) -> std::io::Result<()> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    // Small messages must not wait for more.
    from.set_nodelay(true)?;
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    open.push(from.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Whether the worker answers a request that means nothing to it.
fn is_alive(worker: &SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(worker, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /alive HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")?;
        stream.read_exact(&mut [0; 4])
    };
    ask().is_ok()
}

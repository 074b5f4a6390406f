//! Connecting to a host that may have been silent until this moment.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::sleep,
};

/// TCP repeats the first packet of a connection after a whole second, then after two: a host that is back would be noticed that late.
/// So one attempt stays, for whoever is merely far away, and beside it another one is made anew that often.
const ANEW_INTERVAL: Duration = Duration::from_millis(200);

/// Connects to whichever of the name's addresses answers first. It is the caller who ends it: a silent host never does.
pub(crate) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    // What the system says of a name proves nothing about the host.
    let unnamed = |error| io::Error::other(format!("the name {host}: {error}"));
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(unnamed)?.collect();
    let mut patient = pin!(TcpStream::connect(&addresses[..]));
    let mut another = None;
    loop {
        tokio::select! {
            biased;
            connected = &mut patient => return connected,
            Some(connected) = async { Some(another.as_mut()?.await) } => return connected,
            () = sleep(ANEW_INTERVAL) => another = Some(Box::pin(TcpStream::connect(&addresses[..]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        net::TcpSocket,
        time::{Instant, timeout, timeout_at},
    };

    use super::*;

    /// A listener whose queue is full drops the first packet of a connection, as a silent host does.
    #[tokio::test]
    async fn a_host_that_is_back_is_noticed_before_tcp_tries_again() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _queued = connect("127.0.0.1", port).await.unwrap();

        let began = Instant::now();
        let mut connecting = pin!(connect("127.0.0.1", port));
        assert!(timeout(Duration::from_millis(100), &mut connecting).await.is_err(), "nobody answers");
        let _accepted = listener.accept().await.unwrap();
        timeout_at(began + Duration::from_millis(950), connecting).await.expect("before TCP's own second is over").unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_told_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(connect("127.0.0.1", port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

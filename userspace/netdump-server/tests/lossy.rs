// SPDX-License-Identifier: GPL-2.0-or-later
//! A dump over a network that loses, copies and reorders, between the real server and the module's engine.

mod rig;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netdump_sim::crowd;
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::link::{Link, LinkParams, LinkStats};
use rig::{ended_meta, host, Core, Server};

/// Passes datagrams between one client and the server, through a bad link each way. The server sees the relay's
/// address instead of the client's.
fn relay(
    listen: UdpSocket,
    onward: UdpSocket,
    client: SocketAddr,
    server: SocketAddr,
    params: LinkParams,
    stop: Arc<AtomicBool>,
) -> (LinkStats, LinkStats) {
    listen.set_nonblocking(true).unwrap();
    onward.set_nonblocking(true).unwrap();
    let started = Instant::now();
    let mut up = Link::<Vec<u8>>::new(params.clone(), 1);
    let mut down = Link::<Vec<u8>>::new(params, 2);
    let mut buf = vec![0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = started.elapsed().as_nanos() as u64;
        let mut idle = true;
        while let Ok((len, _)) = listen.recv_from(&mut buf) {
            idle = false;
            up.offer(now, buf[..len].to_vec());
        }
        while let Ok((len, _)) = onward.recv_from(&mut buf) {
            idle = false;
            down.offer(now, buf[..len].to_vec());
        }
        while let Some(frame) = up.take_due(now) {
            // Full socket buffers lose, as networks do.
            let _ = onward.send_to(&frame, server);
        }
        while let Some(frame) = down.take_due(now) {
            let _ = listen.send_to(&frame, client);
        }
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    (*up.stats(), *down.stats())
}

fn dump_through(params: LinkParams) {
    let server = Server::with(&["--secure", "0"]);
    let (client, near, far) = (host(server.block, 2), host(server.block, 3), host(server.block, 4));
    let image = ImageParams { memory: 16 << 20, ..ImageParams::default() };
    let mut crowd = server.crowd(2, 1, &image);
    crowd.server.set_ip(near);
    let listen = UdpSocket::bind((near, 6666)).unwrap();
    let onward = UdpSocket::bind((far, 6666)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let link = {
        let (stop, server) = (stop.clone(), server.addr().into());
        let client = SocketAddr::from((client, 6666));
        std::thread::spawn(move || relay(listen, onward, client, server, params, stop))
    };
    let report = crowd::run(&crowd).unwrap();
    server.wait_for("dump complete");
    stop.store(true, Ordering::Relaxed);
    let (up, down) = link.join().unwrap();
    assert_eq!(report.served, 1);
    let dir = server.dir(far);
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(image));
    let meta = ended_meta(&dir);
    assert!(meta["complete"] == true && meta["dump"]["datagrams"]["retransmissions"].as_u64() > Some(0), "{meta}");
    println!("up {up:?}\ndown {down:?}\n{}", meta["dump"]["datagrams"]);
    assert!(up.lost > 0 && down.lost > 0 && up.duplicated > 0 && down.reordered > 0);
}

#[test]
fn one_percent_loss() {
    dump_through(LinkParams { loss: 0.01, duplicate: 0.01, reorder: 0.01, ..LinkParams::default() });
}

#[test]
fn ten_percent_loss() {
    dump_through(LinkParams { loss: 0.10, duplicate: 0.01, reorder: 0.01, ..LinkParams::default() });
}

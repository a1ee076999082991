// SPDX-License-Identifier: GPL-2.0-or-later
//! A dump over a network that loses, copies and reorders, between the real server and the module's engine.

mod rig;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netdump_sim::crowd;
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::link::{Link, LinkParams, LinkStats};
use rig::{ended_meta, host, Core, Server, Setup};

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
    let far = host(server.block, 4).into();
    let to = server.addr().into();
    let (up, down) = dump_from(&server, far, to, params);
    assert!(up.lost > 0 && down.lost > 0 && up.duplicated > 0 && down.reordered > 0);
}

/// A dump by way of a relay, which the server sees at `far`.
fn dump_from(server: &Server, far: IpAddr, to: SocketAddr, params: LinkParams) -> (LinkStats, LinkStats) {
    let (client, near) = (host(server.block, 2), host(server.block, 3));
    let lossy = params.loss > 0.0;
    let image = ImageParams { memory: 16 << 20, ..ImageParams::default() };
    let mut crowd = server.crowd(2, 1, &image);
    crowd.server.set_ip(near);
    let listen = UdpSocket::bind((near, 6666)).unwrap();
    let onward = UdpSocket::bind((far, 0)).unwrap();
    let far_port = onward.local_addr().unwrap().port();
    let stop = Arc::new(AtomicBool::new(false));
    let link = {
        let stop = stop.clone();
        let client = SocketAddr::from((client, 6666));
        std::thread::spawn(move || relay(listen, onward, client, to, params, stop))
    };
    let report = crowd::run(&crowd).unwrap();
    server.wait_for(&format!("dump complete client={}", SocketAddr::new(far, far_port)));
    stop.store(true, Ordering::Relaxed);
    let (up, down) = link.join().unwrap();
    assert_eq!(report.served, 1);
    let dir = only_dir(server, far);
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(image));
    let meta = ended_meta(&dir);
    assert_eq!(meta["complete"], true);
    assert_eq!(meta["client"], far.to_string());
    if lossy {
        assert!(meta["dump"]["datagrams"]["retransmissions"].as_u64() > Some(0), "{meta}");
    }
    println!("up {up:?}\ndown {down:?}\n{}", meta["dump"]["datagrams"]);
    (up, down)
}

fn only_dir(server: &Server, client: IpAddr) -> PathBuf {
    let prefix = format!("{}-2", client.to_string().replace(':', "-"));
    let all = std::fs::read_dir(&server.root).unwrap().map(|entry| entry.unwrap());
    let mut found = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let dir = found.next().unwrap().path();
    assert!(found.next().is_none());
    dir
}

#[test]
fn ipv6_and_ipv4_on_one_socket() {
    let mut setup = Setup::new(&["--secure", "0"]);
    // A port that is free for both families; the server takes all addresses.
    let port = UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
    setup.everywhere = Some(port);
    let server = setup.start();
    let six = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
    dump_from(&server, six, SocketAddr::new(six, port), LinkParams::default());
    let (far, four) = (host(server.block, 5), host(server.block, 1));
    dump_from(&server, far.into(), SocketAddr::new(four.into(), port), LinkParams::default());
}

#[test]
fn one_percent_loss() {
    dump_through(LinkParams { loss: 0.01, duplicate: 0.01, reorder: 0.01, ..LinkParams::default() });
}

#[test]
fn ten_percent_loss() {
    dump_through(LinkParams { loss: 0.10, duplicate: 0.01, reorder: 0.01, ..LinkParams::default() });
}

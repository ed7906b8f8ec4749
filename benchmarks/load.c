/* What loads an interface, and what no reader of a receive ring can undercut.
 *
 *   load send INTERFACE PACKETS OCTETS SECONDS
 *       sends Ethernet/IPv4/UDP frames of so many octets in 4,096 flows by sendmmsg as fast as the
 *       interface takes them, until all are sent or the time is over. Prints one line: frames
 *       sent, frames refused (and not sent again), CPU ns, wall ns.
 *
 *   load count INTERFACE BLOCK_OCTETS BLOCKS
 *       counts frames in a TPACKET_V3 ring and does nothing else. Prints "ready", and when its
 *       standard input has ended and the ring is empty one line: frames, original octets, frames
 *       that the kernel dropped, CPU ns, wall ns.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define FLOWS 4096
#define OCTETS_MIN 42 /* Ethernet, IPv4 and UDP headers */
#define OCTETS_MAX 1514
#define RETIRE_MS 20

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int bound_socket(const char *interface, int protocol, int prepared)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
    int opened = prepared >= 0 ? prepared : socket(AF_PACKET, SOCK_RAW, 0);
    address.sll_ifindex = (int)if_nametoindex(interface);
    if (opened < 0 || !address.sll_ifindex
        || bind(opened, (struct sockaddr *)&address, sizeof address))
        return -1;
    return opened;
}

static void write_frame(uint8_t *frame, unsigned octets, uint32_t flow)
{
    static const uint8_t headers[OCTETS_MIN] = {
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0,             /* to a host that is not there */
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 0, 203, 0, 113, 1,
        0, 0, 1, 0xbb,
    };
    uint16_t ip_octets = htons((uint16_t)(octets - 14));
    uint16_t udp_octets = htons((uint16_t)(octets - 34));
    uint16_t host = htons((uint16_t)flow), port = htons((uint16_t)(1024 + flow % 60000));
    memset(frame, 0, octets);
    memcpy(frame, headers, sizeof headers);
    memcpy(frame + 16, &ip_octets, 2);
    memcpy(frame + 28, &host, 2);
    memcpy(frame + 34, &port, 2);
    memcpy(frame + 38, &udp_octets, 2);
}

static int send_load(const char *interface, uint64_t packets, unsigned octets, unsigned seconds)
{
    static uint8_t frames[FLOWS][OCTETS_MAX];
    static struct iovec vectors[FLOWS];
    static struct mmsghdr messages[FLOWS];
    uint64_t sent = 0, refused = 0;
    if (octets < OCTETS_MIN || octets > OCTETS_MAX) {
        fprintf(stderr, "load: frames of %u octets: expected %u to %u\n", octets, OCTETS_MIN,
                OCTETS_MAX);
        return 2;
    }
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        write_frame(frames[flow], octets, flow);
        vectors[flow] = (struct iovec){frames[flow], octets};
        messages[flow].msg_hdr = (struct msghdr){.msg_iov = &vectors[flow], .msg_iovlen = 1};
    }
    int opened = bound_socket(interface, 0, -1);
    if (opened < 0)
        return failed(interface);
    /* Without a queue between: what is sent has been taken by the device. */
    if (setsockopt(opened, SOL_PACKET, PACKET_QDISC_BYPASS, &(int){1}, sizeof(int)))
        return failed("PACKET_QDISC_BYPASS");
    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
    uint64_t end = wall + seconds * 1000000000ull;
    while (sent + refused < packets && now(CLOCK_MONOTONIC) < end) {
        uint64_t at = (sent + refused) % FLOWS, count = packets - sent - refused;
        count = count < BATCH ? count : BATCH;
        count = count < FLOWS - at ? count : FLOWS - at;
        int taken = sendmmsg(opened, messages + at, (unsigned)count, 0);
        if (taken > 0)
            sent += (uint64_t)taken;
        else if (errno == ENOBUFS)
            refused++;
        else if (errno != EAGAIN && errno != EINTR)
            return failed("sendmmsg");
    }
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = now(CLOCK_MONOTONIC) - wall;
    printf("%lu %lu %lu %lu\n", (unsigned long)sent, (unsigned long)refused, (unsigned long)cpu,
           (unsigned long)wall);
    return 0;
}

static int count_load(const char *interface, unsigned block_octets, unsigned blocks)
{
    struct tpacket_req3 request = {
        .tp_block_size = block_octets, .tp_block_nr = blocks, .tp_frame_size = block_octets,
        .tp_frame_nr = blocks, .tp_retire_blk_tov = RETIRE_MS,
    };
    struct tpacket_stats_v3 statistics;
    socklen_t size = sizeof statistics;
    uint64_t packets = 0, octets = 0;
    unsigned at = 0;
    int opened = socket(AF_PACKET, SOCK_RAW, 0), draining = 0;
    if (opened < 0
        || setsockopt(opened, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V3}, sizeof(int))
        || setsockopt(opened, SOL_PACKET, PACKET_RX_RING, &request, sizeof request))
        return failed("PACKET_RX_RING");
    uint8_t *ring = mmap(NULL, (size_t)block_octets * blocks, PROT_READ | PROT_WRITE, MAP_SHARED,
                         opened, 0);
    if (ring == MAP_FAILED)
        return failed("mmap");
    if (bound_socket(interface, ETH_P_ALL, opened) < 0)
        return failed(interface);
    puts("ready");
    fflush(stdout);
    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
    for (;;) {
        struct tpacket_block_desc *block = (void *)(ring + (size_t)at * block_octets);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd ends[2] = {{opened, POLLIN, 0}, {draining ? -1 : 0, POLLIN, 0}};
            int events = poll(ends, 2, draining ? 5 * RETIRE_MS : -1);
            if (events == 0)
                break;
            if (ends[1].revents)
                draining = 1;
            continue;
        }
        struct tpacket3_hdr *packet = (void *)((uint8_t *)block
                                               + block->hdr.bh1.offset_to_first_pkt);
        for (uint32_t left = block->hdr.bh1.num_pkts; left; left--) {
            packets++;
            octets += packet->tp_len;
            packet = (void *)((uint8_t *)packet + packet->tp_next_offset);
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = at + 1 == blocks ? 0 : at + 1;
    }
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = now(CLOCK_MONOTONIC) - wall;
    if (getsockopt(opened, SOL_PACKET, PACKET_STATISTICS, &statistics, &size))
        return failed("PACKET_STATISTICS");
    printf("%lu %lu %u %lu %lu\n", (unsigned long)packets, (unsigned long)octets,
           statistics.tp_drops, (unsigned long)cpu, (unsigned long)wall);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "send"))
        return send_load(argv[2], strtoull(argv[3], NULL, 10), (unsigned)atoi(argv[4]),
                         (unsigned)atoi(argv[5]));
    if (argc == 5 && !strcmp(argv[1], "count"))
        return count_load(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    fputs("load: expected send INTERFACE PACKETS OCTETS SECONDS or count INTERFACE BLOCK_OCTETS "
          "BLOCKS\n", stderr);
    return 2;
}

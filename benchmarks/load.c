/* What loads an interface, and what no reader of a receive ring can undercut.
 *
 *   load send INTERFACE CAPTURE PACKETS SECONDS RATE MOVE
 *       sends the frames of a pcap file by sendmmsg, round and round, until so many packets are
 *       sent or the time is over. RATE: packets a second; 0: as fast as the interface takes them.
 *       MOVE: each time round, subscribers' addresses (10.0.0.0/8, and 2001:db8::/32 by their /64)
 *       are so many further on; their header's checksum then fits no more, and nobody here looks.
 *       Prints one line: frames sent, frames refused (and not sent again), CPU ns, wall ns.
 *
 *   load count INTERFACE BLOCK_OCTETS BLOCKS
 *       counts frames in a TPACKET_V3 ring and does nothing else. Prints "ready", and when its
 *       standard input has ended and the ring is empty one line: frames, original octets, frames
 *       that the kernel dropped, CPU ns, wall ns.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define PCAP_HEADER_OCTETS 24
#define PCAP_RECORD_OCTETS 16
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

/* The next 24 bits of an address, so many further on. */
static void move_host(uint8_t *host, uint32_t by)
{
    uint32_t value = ((uint32_t)host[0] << 16 | host[1] << 8 | host[2]) + by;
    host[0] = (uint8_t)(value >> 16);
    host[1] = (uint8_t)(value >> 8);
    host[2] = (uint8_t)value;
}

static void move_subscriber(uint8_t *frame, uint32_t by)
{
    static const uint8_t network[4] = {0x20, 0x01, 0x0d, 0xb8};
    if (frame[12] == 0x08 && frame[13] == 0x00) {
        for (int at = 26; at <= 30; at += 4)
            if (frame[at] == 10)
                move_host(frame + at + 1, by);
    } else if (frame[12] == 0x86 && frame[13] == 0xdd) {
        for (int at = 22; at <= 38; at += 16)
            if (!memcmp(frame + at, network, sizeof network))
                move_host(frame + at + 5, by);
    }
}

static uint8_t *mapped(const char *path, size_t *octets)
{
    struct stat status;
    int opened = open(path, O_RDONLY);
    if (opened < 0 || fstat(opened, &status) || status.st_size < PCAP_HEADER_OCTETS)
        return NULL;
    *octets = (size_t)status.st_size;
    /* Private: where addresses are moved, the file stays what it is. */
    uint8_t *found = mmap(NULL, *octets, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE,
                          opened, 0);
    close(opened);
    return found == MAP_FAILED ? NULL : found;
}

/* Until so many packets are due. */
static void await_due(uint64_t since, uint64_t packets, uint64_t rate)
{
    uint64_t due = since + packets * 1000000000u / rate, at = now(CLOCK_MONOTONIC);
    if (at < due)
        nanosleep(&(struct timespec){(time_t)((due - at) / 1000000000u),
                                     (long)((due - at) % 1000000000u)}, NULL);
}

static int send_load(const char *interface, const char *path, uint64_t packets, unsigned seconds,
                     uint64_t rate, uint32_t move)
{
    struct iovec vectors[BATCH];
    struct mmsghdr messages[BATCH];
    uint64_t sent = 0, refused = 0;
    uint32_t captured;
    size_t octets, at = PCAP_HEADER_OCTETS;
    uint8_t *capture = mapped(path, &octets);
    if (!capture)
        return failed(path);
    for (int i = 0; i < BATCH; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
    int opened = bound_socket(interface, 0, -1);
    if (opened < 0)
        return failed(interface);
    /* Without a queue between: what is sent has been taken by the device. */
    if (setsockopt(opened, SOL_PACKET, PACKET_QDISC_BYPASS, &(int){1}, sizeof(int)))
        return failed("PACKET_QDISC_BYPASS");
    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
    uint64_t end = wall + seconds * 1000000000ull;
    unsigned ready = 0, first = 0, further = 0;
    while (sent + refused < packets && now(CLOCK_MONOTONIC) < end) {
        if (ready == first) {
            uint64_t left = packets - sent - refused;
            for (ready = first = 0; ready < BATCH && ready < left; ready++) {
                if (at == octets) {
                    at = PCAP_HEADER_OCTETS;
                    further = move;
                }
                memcpy(&captured, capture + at + 8, sizeof captured);
                vectors[ready] = (struct iovec){capture + at + PCAP_RECORD_OCTETS, captured};
                if (further)
                    move_subscriber(vectors[ready].iov_base, further);
                at += PCAP_RECORD_OCTETS + captured;
            }
        }
        if (rate)
            await_due(wall, sent + refused, rate);
        int taken = sendmmsg(opened, messages + first, ready - first, 0);
        if (taken > 0) {
            sent += (uint64_t)taken;
            first += (unsigned)taken;
        } else if (errno == ENOBUFS) {
            refused++;
            first++;
        } else if (errno != EAGAIN && errno != EINTR) {
            return failed("sendmmsg");
        }
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
    if (argc == 8 && !strcmp(argv[1], "send"))
        return send_load(argv[2], argv[3], strtoull(argv[4], NULL, 10), (unsigned)atoi(argv[5]),
                         strtoull(argv[6], NULL, 10), (uint32_t)atoi(argv[7]));
    if (argc == 5 && !strcmp(argv[1], "count"))
        return count_load(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    fputs("load: expected send INTERFACE CAPTURE PACKETS SECONDS RATE MOVE or count INTERFACE "
          "BLOCK_OCTETS BLOCKS\n", stderr);
    return 2;
}

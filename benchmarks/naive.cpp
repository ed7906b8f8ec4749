// What a good programmer writes in an afternoon: count octets per (subscriber, rule, direction).
//
//   naive CAPTURE PREFIXES      little-endian pcap with microseconds, untagged IPv4
//
// PREFIXES has a line "address length rule" for each server prefix, address and rule as decimal
// numbers. Subscribers are 10.0.0.0/8. Packet by packet: a map from prefix to rule for each length
// that occurs, and one std::unordered_map of counters. It prints packets, metered octets, number of
// counters, CPU ns and wall ns, the clocks running from before the capture is opened.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <unordered_map>

namespace {

struct Counter {
    uint64_t packets[2] = {0, 0}, octets[2] = {0, 0};
    uint64_t first_us = UINT64_MAX, last_us = 0;
};

using Prefixes = std::map<unsigned, std::unordered_map<uint32_t, uint32_t>, std::greater<unsigned>>;

uint64_t now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

uint32_t little(const uint8_t *at) {
    uint32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

uint32_t big(const uint8_t *at) { return __builtin_bswap32(little(at)); }

uint32_t rule_of(const Prefixes &prefixes, uint32_t address) {
    for (const auto &[length, rules] : prefixes) {
        auto found = rules.find(length ? address >> (32 - length) : 0);
        if (found != rules.end()) return found->second + 1;
    }
    return 0;
}

bool subscriber(uint32_t address) { return address >> 24 == 10; }

}  // namespace

int main(int count, char **words) {
    if (count != 3) return 2;
    Prefixes prefixes;
    std::FILE *list = std::fopen(words[2], "r");
    if (!list) return 1;
    uint32_t address, length, rule;
    while (std::fscanf(list, "%" SCNu32 " %" SCNu32 " %" SCNu32, &address, &length, &rule) == 3)
        prefixes[length][length ? address >> (32 - length) : 0] = rule;
    std::fclose(list);

    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
    int file = open(words[1], O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) return 1;
    size_t size = size_t(status.st_size);
    auto *start = static_cast<uint8_t *>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0));
    if (start == MAP_FAILED) return 1;
    std::unordered_map<uint64_t, Counter> counters;
    uint64_t packets = 0, octets = 0;
    for (size_t at = 24; at + 16 <= size;) {
        const uint8_t *record = start + at, *ip = record + 16 + 14;
        uint32_t captured = little(record + 8);
        at += 16 + captured;
        if (at > size) break;
        packets++;
        if (captured < 34 || ip[-2] != 0x08 || ip[-1] != 0x00 || ip[0] >> 4 != 4) continue;
        uint32_t source = big(ip + 12), destination = big(ip + 16);
        bool downlink = !subscriber(source);
        if (downlink && !subscriber(destination)) continue;
        uint32_t near = downlink ? destination : source, far = downlink ? source : destination;
        Counter &counter = counters[uint64_t(near) << 32 | rule_of(prefixes, far)];
        uint64_t time_us = uint64_t(little(record)) * 1000000u + little(record + 4);
        uint32_t total = big(ip) & 0xFFFF;
        counter.packets[downlink]++;
        counter.octets[downlink] += total;
        if (time_us < counter.first_us) counter.first_us = time_us;
        if (time_us > counter.last_us) counter.last_us = time_us;
    }
    for (const auto &[key, counter] : counters) octets += counter.octets[0] + counter.octets[1];
    munmap(start, size);
    close(file);
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = now(CLOCK_MONOTONIC) - wall;
    std::printf("%" PRIu64 " %" PRIu64 " %zu %" PRIu64 " %" PRIu64 "\n", packets, octets,
                counters.size(), cpu, wall);
}

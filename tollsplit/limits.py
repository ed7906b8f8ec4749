"""Every bound of tollsplit, with its reason."""

from __future__ import annotations

# --- capture files ---------------------------------------------------------------------
# libpcap refuses larger records (MAXIMUM_SNAPLEN); a length field beyond it is corruption.
CAPTURED_OCTETS_MAX = 262_144
# A pcapng block holds one packet or one table; larger ones are corruption, not data.
BLOCK_OCTETS_MAX = 16 * 1024 * 1024
# Interfaces per pcapng section: mergecap reaches thousands, a hostile file would reach memory.
INTERFACES_MAX = 65_535
# 2262-01-01: later timestamps are held there, so that windows end before 2^63 ns.
TIMESTAMP_NS_MAX = 9_214_646_400_000_000_000
# How much of a decompressed stream is held at once; several records always fit.
STREAM_CHUNK_OCTETS = 4 * 1024 * 1024

# --- live capture ----------------------------------------------------------------------
# A block is handed over as a whole, and waking up for it costs as much as some thousand frames.
RING_BLOCK_OCTETS = 1024 * 1024
# Contiguous kernel memory; beyond it the kernel has to map page by page anyway.
RING_BLOCK_OCTETS_MAX = 16 * 1024 * 1024
# 64 MiB for each worker: a quarter of a second of 1.3 million smallest frames a second.
RING_BLOCKS = 64
# With one block, whatever arrives while it is walked is lost.
RING_BLOCKS_MIN = 2
# The kernel's memory, never swapped: more is a mistake in a unit.
RING_OCTETS_MAX = 4 * 1024 * 1024 * 1024
# How long a block that is not full may wait. The kernel looks about as often, so below 10 it
# works for nothing.
RING_RETIRE_MS = 20
RING_RETIRE_MS_MIN = 1
RING_RETIRE_MS_MAX = 1_000
# What is copied of a packet: all headers through every tunnel, and a whole packet of an
# ordinary link. Of a coalesced one the rest is payload, which nothing reads.
RING_SNAP_OCTETS = 2_048
# Ethernet and the longest IPv6 header chain that is followed still fit.
RING_SNAP_OCTETS_MIN = 128
# A fanout group's members are numbered in 8 bits by older kernels.
RING_WORKERS_MAX = 256
# Times that each interface may vanish and come back once privileges are dropped: a packet
# socket needs a privilege to be made, so they are made ahead, `workers` file descriptors each.
RING_RETURNS_MAX = 16
# What is handed to the file at a time: the largest packet's block fits, and it is still in the
# second level cache when it is written.
RECORDING_BUFFER_OCTETS = 512 * 1024
# For each worker: a disk may stand still for as long as 4 MiB of traffic, and the ring, take.
RECORDING_BUFFERS = 8
# How old a frame is handed over at the latest while others follow it.
RECORDING_BEHIND_NS = 1_000_000_000

# --- journal ---------------------------------------------------------------------------
# A segment that is larger than this and four times what it adds up to is written anew.
JOURNAL_SEGMENT_OCTETS = 64 * 1024 * 1024
# One entry holds what was counted in one flush; a length beyond it is corruption.
JOURNAL_ENTRY_OCTETS_MAX = 64 * 1024 * 1024 * 1024
# All segments together: a ledger that is away for days must not fill the gateway's disk.
JOURNAL_OCTETS_MAX = 8 * 1024 * 1024 * 1024

# --- a running gateway ------------------------------------------------------------------
# Rules with the files that they name: four million prefixes take about a hundred MiB.
CONTROL_REQUEST_OCTETS_MAX = 512 * 1024 * 1024
# How long rules may take to be compiled and put in force.
CONTROL_WAIT_S = 60

# --- dissecting ------------------------------------------------------------------------
# Provider networks stack two or three; more is an attack on the parser's time.
LINK_TAGS_MAX = 8
# Nesting of IP headers that is followed; the deepest reached is metered.
TUNNELS_MAX = 8
# IPv6 extension headers before the transport (RFC 8504 §5.3 lets a node bound them).
EXTENSION_HEADERS_MAX = 8
# GTP-U extension headers in one packet (TS 29.281 §5.2 knows fewer than ten kinds).
GTP_EXTENSIONS_MAX = 8

# --- what is remembered of packets -------------------------------------------------------
# Fragmented datagrams of one worker that are known at a time: 12 MiB. Half a minute of 2,000 a
# second; of more, complete ones go first.
FRAGMENT_DATAGRAMS_MAX = 65_536
# Fragments of one worker that wait for their datagram's first: 11 MiB. They wait in disorder and
# in floods; a link of 10 Gbit/s brings as many in 80 ms of nothing else.
FRAGMENTS_WAITING_MAX = 65_536
# How long a datagram is known. Reassembly waits 30 s (Linux) to 60 s (RFC 8200 §4.5); on a fast
# link the 16 bits of an IPv4 identification come around sooner.
FRAGMENT_TIMEOUT_S = 30
# Stretches of one datagram that do not touch; more are seen only where fragments are made up.
FRAGMENT_SPANS_MAX = 8
# Flows of one worker that are known at a time: 160 MiB, and 28 more for what leads to them and
# whose tokens opened them. For others those make room that have shown nothing.
FLOWS_MAX = 1_048_576
# How long a flow without packets is known. Most NATs forget UDP after 30 s to 5 min, and TCP, which
# sends its keep-alives after 2 h, later; a tag that comes again is seen again.
FLOW_IDLE_S = 300
# How long a flow's packets may wait for what it shows: handshakes are over in a second or two.
FLOW_HOLD_S = 10
# A ClientHello, header and all: what one TLS record holds. With keys against quantum computers they
# have 2 KB; a server that speaks TLS takes more, and a longer one has no name.
HELLO_OCTETS_MAX = 16_384
# Of a QUIC client's handshake; hellos have 2 to 4 KB, and their datagrams 1.2.
QUIC_CRYPTO_OCTETS_MAX = 8_192
# Packets of one flow that are opened to find one, at some 50 µs each.
QUIC_PACKETS_MAX = 16
# Datagrams a minute that are opened of a flow with a name, in case they begin another connection:
# a client that goes on for as long between the same ports begins one every few seconds. Whoever
# sends more has no name.
QUIC_AGAIN_MAX = 64
# Records of one DNS answer that are read; one over UDP seldom has room for a dozen.
DNS_RECORDS_MAX = 128
# Addresses that are taken from one answer.
DNS_ADDRESSES_MAX = 32
# Questions to trusted resolvers that wait for their answers, and how long they may; stub resolvers
# give up after 5 s, and ask again.
DNS_QUESTIONS_MAX = 65_536
DNS_WAIT_S = 10
# Addresses with a name that rules list: a sponsor has hundreds, a large network's edge thousands.
DNS_GIVEN_MAX = 65_536
# How long a name's address is believed: programs use one for a moment longer than its TTL, which
# is 0 at times; beyond a day they ask again.
DNS_TTL_S_MIN = 10
DNS_TTL_S_MAX = 86_400
# Bits by which most addresses are known to have no name; sixteen of an address's hash.
DNS_HINTS = 65_536
# Requests of one connection that wait for their responses; who pipelines sends four to eight.
HTTP_OUTSTANDING_MAX = 16
# A message's head, a chunk's line or a trailer. Servers take 8 to 32 KiB of it; nothing is kept.
HTTP_HEAD_OCTETS_MAX = 65_536
# Counters of packets that wait, of one worker: 20 MiB; a flow mostly has one.
HELD_COUNTERS_MAX = 262_144
# A connection's first octets as far as a name is looked for in them: hellos have 2 KB, unless
# somebody makes them longer.
TALK_OCTETS_MAX = 8_192
# Flows of one worker whose hello is not complete yet, or is still compared with what comes again,
# over QUIC for ten seconds: 36 MiB. Where more begin at a time, the oldest is read no more.
TALKS_MAX = 4_096
# Flows of one worker whose HTTP/1 requests are read, as long as they are known: 21 MB. Most flows
# speak TLS; of those beyond these no host is believed.
REQUESTS_MAX = 16_384
# Conditions that a flow fulfils rather than a packet: a bit each in its entry.
FACTS_MAX = 64
# Packets of one worker that may have copies yet: 26 MiB. With 10 ms between them, 25 million a
# second.
COPIED_PACKETS_MAX = 262_144
# Copies of one packet that are left out: a mirror that shows each port of a path shows no more. A
# sender could hide 8 bits in what copies may differ in, and pays for every fourth packet.
COPIES_MAX = 3
# Copies that come later are the sender's: TCP waits for 200 ms at least, or for a round trip.
DUPLICATES_MS_MAX = 100
# Directions of TCP connections of one worker that are known at a time: 136 MiB.
STREAMS_MAX = 1_048_576
# Segments that all of them remember: 64 MiB. Half a GiB each second, for as long as 12 s.
SENT_MAX = 4_194_304
# Segments of one stream: 1.4 MiB of full ones, what is on its way at 400 Mbit/s over 30 ms.
SENT_OF_ONE_MAX = 1_024
# How often a segment is sent again for nothing. Whose first four retransmissions were lost has
# waited for seconds. Each may hide some 24 octets in its headers, half of them by the next bound.
EXEMPT_TIMES_MAX = 4
# Octets of payload without which none is: so that what headers hide is a sixth at most of what is
# paid for. Almost all octets that are sent again are those of longer ones.
EXEMPT_PAYLOAD_MIN = 512
# Octets of options in a packet that costs nothing: TCP's timestamps.
EXEMPT_OPTIONS_MAX = 12
# Flows of one worker in which a subscriber has said something: 104 MiB.
CALLS_MAX = 1_048_576
# Rule sets of which it is known what flows have shown under them: a flow that no packet of was seen
# under any of these has shown nothing. With one a second, whatever is not idle is carried over.
RULES_KNOWN_MAX = 1_024
# A frame that is older than this than the one before is not late: the clock was set back.
CLOCK_BEHIND_NS = 60_000_000_000
# Captures that are read side by side, in the order of their packets' times: an open file each.
MERGED_CAPTURES_MAX = 512

# --- tokens ----------------------------------------------------------------------------
# How long before its expiry a token may be used. So long it has to be known that it was, and a
# day is enough for an app that fetches its tokens in the morning.
TOKEN_LIFETIME_S_MAX = 86_400
# Used tokens that are known at a time, all sponsors' together: about 48 MiB. Half as many as a
# worker knows flows, and each opens one.
TOKENS_USED_MAX = 524_288
# What expires in the same minute is forgotten at once.
TOKEN_BUCKET_S = 60
# Four keys for each sponsor, while one takes another's place.
TOKEN_KEYS_MAX = 16_384
# Four times what as many keys take as they are written.
TOKEN_KEYS_OCTETS_MAX = 16 * 1024 * 1024

# --- rules -----------------------------------------------------------------------------
# 15 bits name the rule in a counter; operators' sets stay below a thousand.
RULES_MAX = 32_766
POOLS_MAX = 4_095
SPONSORS_MAX = 4_096
# Nested splits of one rule; each is a division per record.
SPLITS_MAX = 16
PREFIXES_MAX = 4_000_000
# Names in all rules: 64 octets each, and its text; lists of a whole country's hosts have as many.
NAMES_MAX = 1_000_000
# Denominator of a share: percentages to seven decimals, and T·n stays below 2^63.
SHARE_DENOMINATOR_MAX = 1_000_000_000
WHERE_CHARACTERS_MAX = 4_096
# Nesting of a `where` expression; Python's own tokenizer gives up at 200 parentheses.
WHERE_DEPTH_MAX = 64
# Errors of a rules file that one message lists; a prefix file of another format has 100,000.
FINDINGS_MAX = 100
INGRESSES_MAX = 254

# --- counting --------------------------------------------------------------------------
# Threads that meter captures; the sorted counters of all of them are merged at once.
WORKERS_MAX = 256
# What one task of a cluster counts of large files, in octets as stored: so much, where there is as
# much for each thread; less down to the least, so that all have something to do. Handing out a task
# and adding up its counters takes a tenth of a second; when a worker dies, what it was at is done
# again.
CLUSTER_PART_OCTETS_MIN = 64 * 1024 * 1024
CLUSTER_PART_OCTETS = 512 * 1024 * 1024
CLUSTER_PART_OCTETS_MAX = 4 * 1024 * 1024 * 1024
# So that who is done early finds more to do.
CLUSTER_PARTS_PER_THREAD = 4
# What a small file counts for at least: opening one takes as long as reading that much.
CLUSTER_FILE_OCTETS = 1024 * 1024
# How long a scheduler may take to answer.
CLUSTER_CONNECT_S = 10
# How long a run waits for workers, where there is none any more: a nanny starts another within
# seconds, an operator within minutes.
CLUSTER_WAIT_S = 60
# How often it looks whether there is one.
CLUSTER_LOOK_S = 1.0
# What is read of each capture on each worker to see that it is the same: 1 MiB in pieces that
# a disk reads at once.
LIKENESS_PIECES = 16
LIKENESS_PIECE_OCTETS = 64 * 1024
# Interned subscribers (all but plain IPv4 addresses) have 32-bit numbers.
SUBSCRIBERS_MAX = 2**31 - 1
# Distinct time cells of one run: a year of minutes. Beyond it packets are faults.
CELLS_MAX = 1_048_576

# --- ledger ----------------------------------------------------------------------------
# Records that are turned into rows at a time: enough to amortise a call, a few MiB.
LEDGER_BATCH_RECORDS = 8_192
# Pieces of work that share one commit: by then the commit costs each next to nothing, and the first
# should not wait for more.
LEDGER_GROUP_MAX = 256
# How long a locked ledger is waited for: the longest bookings take about as long.
LEDGER_WAIT_S = 60
# Pages that SQLite holds in memory. A live run's memory grows up to it with the ledger; eight times
# as much makes booking 2 to 5 % faster.
LEDGER_CACHE_OCTETS = 8 * 1024 * 1024
# SQLite's log is written back into the file beyond this: seldom, yet read quickly after a crash.
LEDGER_LOG_OCTETS = 32 * 1024 * 1024
# How long what an open batch used is held, should nobody book it: it is owed, so a machine that is
# back within the hour finds the balance as it was.
RESERVE_LIFETIME_S = 3600
# Findings that verify names before it only counts; a lost table would name a million.
VERIFY_FINDINGS_MAX = 100

# --- IPFIX -----------------------------------------------------------------------------
# A message over UDP, where the path takes more: what every link carries, and pmacct, which looks
# at 1,550 octets of a datagram, reads whole.
IPFIX_UDP_OCTETS_MAX = 1_400
# Messages over UDP until templates are sent again: what a collector that starts in between misses,
# for two or three messages in a hundred.
IPFIX_INTRODUCE_MESSAGES = 100
# 7 MB/s, some 25,000 records: collectors' sockets hold 208 KiB where nobody has set more.
IPFIX_UDP_MESSAGES_PER_S = 5_000
# How long a collector may take nothing before its connection counts as broken.
IPFIX_SEND_S = 10.0
# Records that wait for a collector that is away: some 200 MiB.
IPFIX_WAITING_RECORDS_MAX = 1_000_000
# How long a run's end waits for its collector.
IPFIX_END_S = 5.0

# --- RADIUS ----------------------------------------------------------------------------
# A secret that is shorter is found by trying (RFC 2865 §3 asks for 16 octets).
RADIUS_SECRET_OCTETS_MIN = 16
# How often a request is sent, and how long each waits for its answer: a server that writes to a
# busy database takes a second.
RADIUS_TRIES = 3
RADIUS_WAIT_S = 2
# How long a run's end waits for its server.
RADIUS_END_S = 5.0
# How long a directory keeps who held an address before: late packets are minutes late at most.
RADIUS_KEPT_S = 24 * 3600

# --- reconciling -----------------------------------------------------------------------
# Lines that are handed to the scratch database at a time.
RECONCILE_BATCH_LINES = 4_096
# What the scratch database keeps in memory of each sort; the rest goes to a temporary file.
RECONCILE_CACHE_OCTETS = 64 * 1024 * 1024
# One record in JSON: some hundreds of characters; beyond it the file is something else.
RECONCILE_RECORD_CHARACTERS_MAX = 1024 * 1024

# --- smart cards ------------------------------------------------------------------------
# Cards for several networks have two or three; a directory beyond it is an attack.
CARD_APPLICATIONS_MAX = 16
# Cards hold about ten records; a hostile file locator names 16,000.
CARD_RECORDS_MAX = 64
# Answers that come in parts of 256 octets: two are usual, a hostile card never ends.
CARD_ANSWER_PARTS_MAX = 8

# --- a sponsored session's proxy ---------------------------------------------------------
# The first lines of a request or answer with all their headers; browsers stay below 8 KiB.
PROXY_HEAD_OCTETS_MAX = 32 * 1024
# What a request may bring: an order with pictures fits, a file upload is no payment.
PROXY_REQUEST_OCTETS_MAX = 16 * 1024 * 1024
# What is read at a time, and held of either side while the other is slow.
PROXY_CHUNK_OCTETS = 64 * 1024
# Connections at a time: each holds two buffers and two file descriptors.
PROXY_CONNECTIONS_MAX = 1_024
# Of one terminal: a browser opens six to each server.
PROXY_CONNECTIONS_OF_ONE_MAX = 64
# How long a terminal may take for the head of a request, and a connection may say nothing.
PROXY_HEAD_S = 10.0
PROXY_IDLE_S = 60.0
# Name, address and handshake of a payment server.
PROXY_CONNECT_S = 10.0
# One request and its answer, or one tunnel: longer than any payment takes.
PROXY_EXCHANGE_S = 900.0
# How soon a tunnel ends once its session has: its permission is asked for again so often.
PROXY_RECHECK_S = 2.0
# How long what a refused terminal still sends is read, so that it gets to see the refusal.
PROXY_LINGER_S = 1.0

# --- services --------------------------------------------------------------------------
# Nine quadrillion micro-units: sums of a thousand such amounts stay below 2^63, JSON readers that
# know doubles only read each of them exactly.
SERVICE_AMOUNT_MAX = 2**53 - 1
# A request's body; the largest ones have some hundreds of octets.
SERVICE_BODY_OCTETS_MAX = 64 * 1024
# How long it may take to come: who sends an octet now and then holds a connection no longer.
SERVICE_BODY_S = 10.0
# How far a device's clock may be off.
SERVICE_SKEW_S = 30
# How long a signature may be good for, as its device says; nonces are kept as long.
SERVICE_SIGNATURE_S_MAX = 60
# Idempotency keys: random ones of 128 bits need 22 characters, and answers are sealed with them.
SERVICE_KEY_CHARACTERS_MIN = 16
SERVICE_KEY_CHARACTERS_MAX = 255
# How long answers are kept for those who did not get them: a day offline, and its night.
SERVICE_ANSWER_S = 36 * 3600
# How long an enrolment waits for its device.
SERVICE_ENROLMENT_S = 24 * 3600
# How long a locked ledger is waited for before a caller is told to come again.
SERVICE_LEDGER_WAIT_S = 5
# Calls that are worked on at the same time; more wait their turn.
SERVICE_THREADS = 64
# Expired rows that one sweep takes: a sweep is short, the next one follows.
SERVICE_SWEEP_ROWS = 1_000
# How often what is overdue is looked for; nothing that has expired is taken meanwhile either.
SERVICE_SWEEP_S = 2
# How often a client asks again after an answer that did not come, and how long it waits at most.
SERVICE_RETRIES = 5
SERVICE_RETRY_S_MAX = 8
# argon2id as OWASP has it at least: 19 MiB, two passes; some tens of milliseconds.
SERVICE_HASH_KIB = 19 * 1024
SERVICE_HASH_ITERATIONS = 2
# Together they take 76 MiB, whoever floods the service with guesses.
SERVICE_HASHES_AT_ONCE = 4
# Wrong secrets in a row before none is right any more.
SERVICE_FAILURES_MAX = 5
# Names whose calls are counted at a time: a hundred octets each.
SERVICE_BUCKETS_MAX = 100_000
# How long calls that have begun may take once the service is told to stop.
SERVICE_STOP_S = 10
# How long notices wait for a device that does not look: a month's holiday.
SERVICE_NOTICE_S = 30 * 24 * 3600
# Notices that are read at a time, for one answer or one turn of a stream.
SERVICE_NOTICES_AT_ONCE = 100
# How often a stream looks for what another process has written, and shows that it is alive:
# gateways on the way forget connections that are silent for half a minute.
SERVICE_STREAM_LOOK_S = 10
# Streams of one device: its old connection may not have ended yet when it makes a new one.
SERVICE_STREAMS_OF_ONE_MAX = 4
SERVICE_STREAMS_MAX = 1_000

# How long what the server said of a claim is good: an end is an end a second later.
PERMIT_KEPT_S = 1.0
# Claims that are remembered; each is some hundreds of octets.
PERMITS_KEPT_MAX = 10_000
# New questions that one terminal may cause: with an answer a second, a session needs one.
PERMIT_ASKS_PER_S = 4.0
PERMIT_ASKS_BURST = 16.0

# --- a terminal's networks ----------------------------------------------------------------
# NetworkManager answers in milliseconds; one that hangs must not hang a payment.
NETWORK_CALL_S = 10.0
# A modem registers and gets its address in some seconds, seldom in half a minute.
NETWORK_SWITCH_S = 45.0

# --- transfers by smart card -------------------------------------------------------------
# How long each prompt of a transfer waits for a person.
TRANSFER_WAIT_S = 120

# --- a terminal's sessions ----------------------------------------------------------------
# A report names an address and a few facts.
REPORT_OCTETS_MAX = 16 * 1024
# How long who reports may take to say it.
REPORT_READ_S = 5.0
# How often a session's state is looked at while its mark is being put in force, and afterwards.
SESSION_POLL_S = 0.1
SESSION_LOOK_S = 5.0
# A payment goes on through several pages: so long after the last one was left it is over.
SESSION_LINGER_S = 5.0

# --- push payments ---------------------------------------------------------------------
# How long a first terminal waits between two polls (CIBA §7.3 and RFC 8628 §3.2 say 5 where
# nothing else is said), and how much longer after each that came too soon (RFC 8628 §3.5).
PUSH_POLL_S = 5
PUSH_POLL_SLOWER_S = 5
# Payments of one account that nobody has decided on: a screen shows no more, and a first terminal
# gone mad floods nobody.
PUSH_WAITING_MAX = 10
# Wrong codes before a payment is blocked: a camera misreads none, for codes check themselves.
PUSH_CODES_MAX = 5

# --- billing authentication --------------------------------------------------------------
# How long a billing status code lives: from the server through the terminal to the resource and
# back takes a second.
BILLING_CODE_S = 60
# How long a licence may do without the server: a revoked right lasts as long.
BILLING_LICENCE_S_MAX = 7 * 24 * 3600
# A licence's file; one has some hundreds.
BILLING_LICENCE_CHARACTERS_MAX = 16 * 1024
# What a resource says to the terminal's billing manager, and the answer: some hundreds of octets.
BILLING_LINE_OCTETS_MAX = 8 * 1024
# How long either of them waits for the server, twice, before it counts as away.
BILLING_SERVER_S = 5
# How long they wait for each other; the server is asked meanwhile.
BILLING_WAIT_S = 30
# What a resource's file may have, for its digest is computed at each operation.
BILLING_FILE_OCTETS_MAX = 4 * 1024 * 1024 * 1024

# --- data sharing ----------------------------------------------------------------------
# How long a device says at once that it lends, and how long a share runs at most: a day.
SHARE_AVAILABLE_S_MAX = 86_400
# How long the end of a share may wait to be settled: a server or ledger that was away so long is
# settled by hand.
SHARE_SETTLE_S_MAX = 30 * 86_400
# Lenders that are told of one request, and offers that are taken in: a screen shows no more.
SHARE_LENDERS_MAX = 50
SHARE_OFFERS_MAX = 50

# --- broker ----------------------------------------------------------------------------
# How long an answer of the broker is waited for: it writes to a disk, perhaps to three.
BROKER_WAIT_S = 5
# A message's payload, where the broker takes as much: a batch beyond it goes in several.
BROKER_PIECE_OCTETS = 512 * 1024
# A batch, unpacked: a million subscribers with five records each are a third of it.
BROKER_BATCH_OCTETS_MAX = 2 * 1024 * 1024 * 1024
# How long an ingester may be silent about a batch before another one is given it. It speaks up
# three times as often while it works.
BROKER_SILENT_S = 30
# Batches that the broker has handed out and that are not booked: each ingester works on one.
BROKER_PENDING_MAX = 256
# For so long the broker itself drops what it has seen before: a sender's tries lie within it.
BROKER_DUPLICATES_S = 120
# A batch that the broker took and nobody has booked after so long is sent again: the broker may
# have lost it with its disk.
BROKER_RESEND_S = 3600
# How long a run's end waits to hear that its last batch is booked.
BROKER_END_S = 5.0
# How long it is known that a batch is booked, for gateways that are away meanwhile.
BROKER_ANSWERS_S = 30 * 24 * 3600

#!/usr/bin/env bash
# Three SeaweedFS clusters on this machine with a bucket each, an object in 2+1 shares over them, and two edges that serve it.
#
#   three-clusters.sh up DIR       start all; their files go to DIR
#   three-clusters.sh lose DIR N   end cluster N (1 to 3)
#   three-clusters.sh down DIR     end all; the files stay
#
# Wants penstock, curl 7.75 or newer, setsid and SeaweedFS's weed in the path. PORTS is the first of the ports, 20 for each cluster
# and 10 for the edges [8000].
set -euo pipefail

usage() {
    sed -n '2,8s/^# \?//p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
ports=${PORTS:-8000}
export AWS_ACCESS_KEY_ID=edge AWS_SECRET_ACCESS_KEY=edge-secret AWS_REGION=us-east-1

# The first port of a cluster. SeaweedFS's own rule, a port and another 10,000 above it, is not relied on.
first() { echo $((ports + 20 * $1)); }

stores() {
    for n in 1 2 3; do
        printf -- "--store\ns3://shares?endpoint=http://127.0.0.1:%s&region=us-east-1%s\n" "$(first "$n")" "${1:+,domain=cluster$n}"
    done
}

start_cluster() {
    local n=$1 p
    p=$(first "$n")
    mkdir -p "$dir/cluster$n"
    # In a group of its own, as weed may be a script that starts it.
    setsid weed server -dir="$dir/cluster$n" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.port=$((p + 1)) -master.port.grpc=$((p + 2)) -master.volumeSizeLimitMB=64 \
        -volume.port=$((p + 3)) -volume.port.grpc=$((p + 4)) -volume.max=100 \
        -filer -filer.port=$((p + 5)) -filer.port.grpc=$((p + 6)) \
        -s3 -s3.port="$p" -s3.port.grpc=$((p + 7)) -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$dir/keys.json" \
        >"$dir/cluster$n.log" 2>&1 &
    echo $! >"$dir/cluster$n.pid"
}

# Waits until what is asked for is so.
await() {
    local what=$1
    shift
    for _ in $(seq 240); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.25
    done
    echo "three-clusters.sh: $what did not come up: see the logs in $dir" >&2
    exit 1
}

ask() {
    curl -s -m 5 --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}

# Makes the bucket of a cluster, which may be there, and tries it: neither a new one nor an old one is usable at once.
make_bucket() {
    local bucket
    bucket="http://127.0.0.1:$(first "$1")/shares"
    ask -X PUT "$bucket"
    ask -f -T /dev/null "$bucket/try" && ask -f -X DELETE "$bucket/try" &&
        [ "$(ask -o /dev/null -w '%{http_code}' "$bucket/penstock-store.toml")" -lt 500 ]
}

start_edge() {
    local n=$1
    setsid penstock serve "${all[@]}" --listen "127.0.0.1:$((ports + 80 + n))" --admin "127.0.0.1:$((ports + 90 + n))" \
        --cache "$dir/cache$n" --cache-size 1GiB --cores 1 --memory 128MiB >"$dir/edge$n.log" 2>&1 &
    echo $! >"$dir/edge$n.pid"
}

# Ends an edge, or a cluster: that is lost.
end() {
    local pid="$dir/$1.pid" signal=TERM
    [ -e "$pid" ] || return 0
    [[ $1 == edge* ]] || signal=KILL
    kill -s $signal -- "-$(cat "$pid")" 2>/dev/null || true
    rm "$pid"
}

case $action in
up)
    for tool in penstock curl weed; do
        command -v $tool >/dev/null || {
            echo "three-clusters.sh: $tool is not in the path" >&2
            exit 1
        }
    done
    cat >"$dir/keys.json" <<END
{"identities": [{"name": "edge", "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}],
 "actions": ["Admin", "Read", "Write", "List"]}]}
END
    trap 'for n in 1 2 3; do end cluster$n; done; end edge1; end edge2' ERR
    for n in 1 2 3; do start_cluster $n; done
    for n in 1 2 3; do
        await "cluster $n" make_bucket $n
    done
    # A cluster is what fails together: its domain.
    mapfile -t all < <(stores domain)
    penstock init "${all[@]}"
    mapfile -t all < <(stores)
    [ -e "$dir/sample.bin" ] || head -c 20000000 /dev/urandom >"$dir/sample.bin"
    penstock put "${all[@]}" --data 2 --parity 1 "$dir/sample.bin"
    for n in 1 2; do
        start_edge $n
        await "edge $n" curl -sf "http://127.0.0.1:$((ports + 90 + n))/readyz"
        echo "edge $n: http://127.0.0.1:$((ports + 80 + n))/sample.bin"
    done
    trap - ERR
    ;;
lose)
    [ $# -eq 3 ] || usage
    end "cluster$3"
    ;;
down)
    for name in edge1 edge2 cluster1 cluster2 cluster3; do end $name; done
    ;;
*) usage ;;
esac

"""What the trainer asks the engines for: keys of `extra_info`, sent with one worker call and taken away again."""

# "gathered" or "streamed"; without it a pass is verl's own.
MODE = "endpoint_update"
# Of `streamed`: further tokens that flow, by window and random share, and the seed of the share.
WINDOW, SHARE, SEED = "live_window", "live_share", "live_seed"
# Keep the pass's keys and values, up to so many bytes; use what was kept.
KEEP_BYTES, USE_KEPT = "keep_kv_bytes", "use_kept_kv"

GATHERED = {MODE: "gathered"}

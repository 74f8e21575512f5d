"""Policy and critic updates that compute only what the endpoints need; torch and Hugging Face models, without verl.

`masked` is the origin: all tokens through the whole network, masked afterwards. `gathered` is exact and leaves out what
no endpoint depends on. `streamed` is approximate: only endpoints flow, and other tokens' keys and values are constants.
"""

"""Makes the trainer `group_ppo` known to a verl that somebody else starts: VERL_USE_EXTERNAL_MODULES=groupppo.verl.register.

verl imports that module in every process, before it looks for plug-ins; so the platform of a machine without a GPU is
registered here first.
"""

import groupppo.verl.plugin
import groupppo.verl.trainer  # noqa: F401

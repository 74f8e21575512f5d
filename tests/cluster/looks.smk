# The executor looks at the queue every second, instead of ten seconds later each time that nothing has ended.

import asyncio

import snakemake_executor_plugin_slurm


async def look_soon(executor):
    await asyncio.sleep(1)


snakemake_executor_plugin_slurm.Executor.sleep = look_soon

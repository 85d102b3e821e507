"""The recipe of the embedded voice: from text to a Piper voice, without a recording.

A neural network learns to say what the HMM voice `cmu_us_slt_arctic_hts` says, from the parameters
that `hts_engine` computes for some twelve thousand sentences. See README.md in this folder.
"""

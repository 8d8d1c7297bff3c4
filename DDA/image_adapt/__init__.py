"""Pull degraded images towards the domain of a DDPM, keeping their low frequencies (DDA,
arXiv:2207.03442).
"""

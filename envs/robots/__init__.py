"""Task families of simulated bodies: Gymnasium's MuJoCo environments with a hidden task."""

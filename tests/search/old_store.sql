BEGIN TRANSACTION;
CREATE TABLE trials (
  sequence INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  config TEXT NOT NULL,
  structure TEXT NOT NULL,
  taxonomy TEXT NOT NULL,
  model TEXT NOT NULL,
  parameters INTEGER NOT NULL,
  flops ANY,
  learning_rate ANY,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  final_loss ANY,
  seconds ANY,
  worker TEXT NOT NULL,
  rung INTEGER NOT NULL,
  routers TEXT NOT NULL DEFAULT 'null'
) STRICT;
INSERT INTO trials VALUES(1,'e9441bb64dd1d36b','{"model":{"kind":"mlp","width":16,"layers":2,"context":128,"head_width":64,"ffn_multiple":4,"structure":{"all":"dense","q":"","k":"","v":"","attention_out":"","ffn_in":"","ffn_out":"","head":"dense"},"moe":{"shared_qkv_router":false,"shared_expert":false,"router":{"softmax_first":false,"jitter":0.0,"balance_weight":0.01,"z_weight":0.001,"bias_rate":0.0}}},"data":{"path":"","batch_size":32},"optimizer":{"learning_rate":0.01,"base_width":768,"beta1":0.9,"beta2":0.95,"epsilon":1e-08,"weight_decay":0.0,"clip_norm":1.0,"accumulate":1},"schedule":{"kind":"constant","warmup_steps":3,"decay_share":0.2,"final_ratio":0.1},"steps":63,"log_every":5,"eval_every":15,"eval_batches":1,"checkpoint_every":500,"keep_checkpoints":2,"seed":3,"device":"cpu","dtype":"auto"}','dense','{"omega":0.0,"psi":1.0,"nu":1.0}','mlp d16 L2',705,7934976.0,0.010000000000000000208,'done','',0.5,0.25,'host:1:2',1,'null');
INSERT INTO trials VALUES(2,'82fba181bfd789b6','{"model":{"kind":"mlp","width":16,"layers":2,"context":128,"head_width":64,"ffn_multiple":4,"structure":{"all":"btt_moe:E=4,k=2","q":"","k":"","v":"","attention_out":"","ffn_in":"","ffn_out":"","head":"dense"},"moe":{"shared_qkv_router":false,"shared_expert":false,"router":{"softmax_first":false,"jitter":0.0,"balance_weight":0.01,"z_weight":0.001,"bias_rate":0.0}}},"data":{"path":"","batch_size":32},"optimizer":{"learning_rate":0.01,"base_width":768,"beta1":0.9,"beta2":0.95,"epsilon":1e-08,"weight_decay":0.0,"clip_norm":1.0,"accumulate":1},"schedule":{"kind":"constant","warmup_steps":3,"decay_share":0.2,"final_ratio":0.1},"steps":63,"log_every":5,"eval_every":15,"eval_batches":1,"checkpoint_every":500,"keep_checkpoints":2,"seed":3,"device":"cpu","dtype":"auto"}','btt_moe:E=4,k=2','{"omega":-0.2119992266387375,"psi":1.0,"nu":1.0804820237218404}','mlp d16 L2',1349,9483264.0,0.010000000000000000208,'done','',0.48999999999999999111,1.25,'host:1:2',1,'null');
INSERT INTO trials VALUES(3,'cbb16abc46c8d8f8','{"model":{"kind":"mlp","width":32,"layers":2,"context":128,"head_width":64,"ffn_multiple":4,"structure":{"all":"btt_moe:E=4,k=2","q":"","k":"","v":"","attention_out":"","ffn_in":"","ffn_out":"","head":"dense"},"moe":{"shared_qkv_router":false,"shared_expert":false,"router":{"softmax_first":false,"jitter":0.0,"balance_weight":0.01,"z_weight":0.001,"bias_rate":0.0}}},"data":{"path":"","batch_size":32},"optimizer":{"learning_rate":0.01,"base_width":768,"beta1":0.9,"beta2":0.95,"epsilon":1e-08,"weight_decay":0.0,"clip_norm":1.0,"accumulate":1},"schedule":{"kind":"constant","warmup_steps":3,"decay_share":0.2,"final_ratio":0.1},"steps":63,"log_every":5,"eval_every":15,"eval_batches":1,"checkpoint_every":500,"keep_checkpoints":2,"seed":3,"device":"cpu","dtype":"auto"}','btt_moe:E=4,k=2','{"omega":-0.17861695921669762,"psi":1.0,"nu":0.9614709844115208}','mlp d32 L2',3717,25159680.0,0.010000000000000000208,'done','',0.47999999999999998223,2.25,'host:1:2',1,'null');
INSERT INTO trials VALUES(4,'ca2e0de0ee4a22ef','{"model":{"kind":"mlp","width":32,"layers":2,"context":128,"head_width":64,"ffn_multiple":4,"structure":{"all":"dense","q":"","k":"","v":"","attention_out":"","ffn_in":"","ffn_out":"","head":"dense"},"moe":{"shared_qkv_router":false,"shared_expert":false,"router":{"softmax_first":false,"jitter":0.0,"balance_weight":0.01,"z_weight":0.001,"bias_rate":0.0}}},"data":{"path":"","batch_size":32},"optimizer":{"learning_rate":0.01,"base_width":768,"beta1":0.9,"beta2":0.95,"epsilon":1e-08,"weight_decay":0.0,"clip_norm":1.0,"accumulate":1},"schedule":{"kind":"constant","warmup_steps":3,"decay_share":0.2,"final_ratio":0.1},"steps":63,"log_every":5,"eval_every":15,"eval_batches":1,"checkpoint_every":500,"keep_checkpoints":2,"seed":3,"device":"cpu","dtype":"auto"}','dense','{"omega":0.0,"psi":1.0,"nu":1.0}','mlp d32 L2',2433,28256256.0,0.010000000000000000208,'done','',0.46999999999999997335,3.25,'host:1:2',1,'null');
CREATE TABLE curves (
  trial INTEGER NOT NULL REFERENCES trials (sequence),
  step INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  flops ANY,
  seconds ANY,
  train_loss ANY,
  val_loss ANY,
  PRIMARY KEY (trial, step)
) STRICT, WITHOUT ROWID;
INSERT INTO curves VALUES(1,0,0,0.0,0.0,0.59999999999999997779,1.0);
INSERT INTO curves VALUES(1,15,480,1889280.0,1.5,0.59999999999999997779,0.5);
INSERT INTO curves VALUES(1,30,960,3778560.0,3.0,0.59999999999999997779,0.5);
INSERT INTO curves VALUES(1,45,1440,5667840.0,4.5,0.59999999999999997779,0.5);
INSERT INTO curves VALUES(1,60,1920,7557120.0,6.0,0.59999999999999997779,0.5);
INSERT INTO curves VALUES(2,0,0,0.0,0.0,0.59999999999999997779,1.0);
INSERT INTO curves VALUES(2,15,480,2257920.0,1.5,0.59999999999999997779,0.48999999999999999111);
INSERT INTO curves VALUES(2,30,960,4515840.0,3.0,0.59999999999999997779,0.48999999999999999111);
INSERT INTO curves VALUES(2,45,1440,6773760.0,4.5,0.59999999999999997779,0.48999999999999999111);
INSERT INTO curves VALUES(2,60,1920,9031680.0,6.0,0.59999999999999997779,0.48999999999999999111);
INSERT INTO curves VALUES(3,0,0,0.0,0.0,0.59999999999999997779,1.0);
INSERT INTO curves VALUES(3,15,480,5990400.0,1.5,0.59999999999999997779,0.47999999999999998223);
INSERT INTO curves VALUES(3,30,960,11980800.0,3.0,0.59999999999999997779,0.47999999999999998223);
INSERT INTO curves VALUES(3,45,1440,17971200.0,4.5,0.59999999999999997779,0.47999999999999998223);
INSERT INTO curves VALUES(3,60,1920,23961600.0,6.0,0.59999999999999997779,0.47999999999999998223);
INSERT INTO curves VALUES(4,0,0,0.0,0.0,0.59999999999999997779,1.0);
INSERT INTO curves VALUES(4,15,480,6727680.0,1.5,0.59999999999999997779,0.46999999999999997335);
INSERT INTO curves VALUES(4,30,960,13455360.0,3.0,0.59999999999999997779,0.46999999999999997335);
INSERT INTO curves VALUES(4,45,1440,20183040.0,4.5,0.59999999999999997779,0.46999999999999997335);
INSERT INTO curves VALUES(4,60,1920,26910720.0,6.0,0.59999999999999997779,0.46999999999999997335);
CREATE TABLE metadata (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO metadata VALUES('data','null');
INSERT INTO metadata VALUES('name','"old"');
INSERT INTO metadata VALUES('scheduler','{"rungs":1,"eta":0}');
INSERT INTO metadata VALUES('search','{"name":"old","out":"runs/search","train":{"model":{"kind":"mlp","width":256,"layers":2,"context":128,"head_width":64,"ffn_multiple":4,"structure":{"all":"dense","q":"","k":"","v":"","attention_out":"","ffn_in":"","ffn_out":"","head":"dense"},"moe":{"shared_qkv_router":false,"shared_expert":false,"router":{"softmax_first":false,"jitter":0.0,"balance_weight":0.01,"z_weight":0.001,"bias_rate":0.0}}},"data":{"path":"","batch_size":32},"optimizer":{"learning_rate":0.003,"base_width":768,"beta1":0.9,"beta2":0.95,"epsilon":1e-08,"weight_decay":0.0,"clip_norm":1.0,"accumulate":1},"schedule":{"kind":"constant","warmup_steps":-1,"decay_share":0.2,"final_ratio":0.1},"steps":1000,"log_every":5,"eval_every":100,"eval_batches":1,"checkpoint_every":500,"keep_checkpoints":2,"seed":0,"device":"cpu","dtype":"auto"},"structures":["dense","btt_moe:E=4,k=2"],"widths":[16,32],"layers":[],"learning_rates":[0.01],"seeds":[3],"budget":{"tokens":2000.0,"tokens_per_parameter":0.0,"flops":0.0},"scheduler":{"kind":"grid","trials":16,"seed":0,"eta":3,"rungs":3,"within":"all"},"curve_points":4,"warmup_share":0.05,"workers":1,"attempts":3,"bootstrap":1000}');
CREATE INDEX trials_by_status ON trials (status, sequence);
COMMIT;
